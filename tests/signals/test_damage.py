"""Every kind of damage is found, by a reader as by `verify`, and named by its file; nothing wrong is ever read."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import OrchError, StoreError
from orchestrator.signals import Fingerprint, Store
from orchestrator.signals.manifest import Manifest, Receipt
from orchestrator.storage import hash_bytes, hash_file
from tests.signals.samples import FINGERPRINT, REQUEST, contents, full_store, make_store, make_tables, units

TABLES = "shards/000001"
_clock = itertools.count(1)


def alter(path: Path, data: bytes) -> None:
    """Overwrite in place, with a time that no earlier version had (clocks of file systems tick slowly)."""
    path.write_bytes(data)
    os.utime(path, ns=(0, next(_clock) * 10**9))


def flip_a_bit(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 4
    alter(folder / name, bytes(data))


def truncate(folder: Path, name: str) -> None:
    alter(folder / name, (folder / name).read_bytes()[:-8])


def append(folder: Path, name: str) -> None:
    alter(folder / name, (folder / name).read_bytes() + b"\0" * 8)


def empty(folder: Path, name: str) -> None:
    alter(folder / name, b"")


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def swap_with_another_shard(folder: Path, name: str) -> None:
    alter(folder / name, (folder / name.replace("000001", "000002")).read_bytes())


DAMAGES = [flip_a_bit, truncate, append, empty, remove, swap_with_another_shard]
NAMES = [
    f"{TABLES}/{table}.arrow"
    for table in ("texts", "tokens", "masked", "topk_004", "partition_t2", "hidden_00", "hidden_03")
]


@pytest.mark.parametrize("name", [*NAMES, f"{TABLES}.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_a_shard(tmp_path: Path, damage: Callable[[Path, str], None], name: str) -> None:
    folder = full_store(tmp_path).folder
    sound = contents(folder)
    store = Store.open(folder)
    store.shard(1)  # what was right once is looked at again when the file has changed
    damage(folder, name)
    with pytest.raises(StoreError) as caught:
        store.shard(1)
    if not (damage is remove and name.endswith(".json")):
        assert str(folder / name) in str(caught.value)
    assert "run `orch precompute-teacher` again" in str(caught.value)
    problems = store.verify()
    assert any(str(folder / name) in problem for problem in problems)
    assert all("000001" in problem for problem in problems)
    for other in (0, 2, 3):
        store.shard(other)

    (folder / f"{TABLES}.json").unlink(missing_ok=True)  # what the sentence advises
    store = make_store(tmp_path)
    assert store.missing() == [units()[1]]
    store.write(units()[1], make_tables(units()[1]))
    store.finish()
    assert contents(folder) == sound


@pytest.mark.parametrize("name", [*NAMES[-2:], f"{TABLES}.json"])
@pytest.mark.parametrize("damage", [truncate, append, empty, remove])
def test_what_can_be_seen_at_a_glance_is_made_anew(
    tmp_path: Path, damage: Callable[[Path, str], None], name: str
) -> None:
    folder = full_store(tmp_path).folder
    sound = contents(folder)
    damage(folder, name)
    store = make_store(tmp_path)
    assert store.missing() == [units()[1]]
    store.write(units()[1], make_tables(units()[1]))
    assert contents(folder) == sound


def test_a_layer_in_the_place_of_another(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    shutil.copyfile(store.table_path(1, "hidden_00"), store.table_path(1, "hidden_03"))
    with pytest.raises(StoreError, match=r"hidden_03.arrow is damaged \(its content does not fit the hash"):
        store.shard(1)


def test_whole_shards_that_were_swapped(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    for suffix in ("", ".json"):
        one, other, aside = (store.folder / f"shards/{name}{suffix}" for name in ("000000", "000001", "aside"))
        one.rename(aside)
        other.rename(one)
        aside.rename(other)
    for index in (0, 1):
        with pytest.raises(StoreError, match=f"00000{index}.json is damaged .*it is of Unit"):
            Store.open(store.folder).shard(index)
    assert len(Store.open(store.folder).verify()) == 2


def test_a_shard_of_another_store(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    other = make_store(tmp_path, fingerprint=Fingerprint({"weights": "other"}))
    shutil.copytree(store.folder / "shards", other.folder / "shards", dirs_exist_ok=True)
    assert other.missing() == units()
    with pytest.raises(StoreError, match=f"in store {FINGERPRINT.digest}"):
        other.shard(0)


def test_files_that_belong_to_nothing(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    strangers = ["shards/000001/extra.arrow", "shards/000009.json", "shards/000009/tokens.arrow", "shards/notes.txt"]
    for name in strangers:
        path = store.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    problems = store.verify()
    assert len(problems) == len(strangers) + 1  # and the folder 000009
    for name in strangers:
        assert f"{store.folder / name} belongs to no shard of this store; remove it" in problems


def test_verify_tells_how_far_it_is(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert full_store(tmp_path).verify(lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_verify_of_a_store_that_is_not_finished(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.write(units()[0], make_tables(units()[0]))
    assert [problem.partition(" is missing;")[0] for problem in store.verify()] == [
        str(store.receipt_path(index)) for index in (1, 2, 3)
    ]


def reseal(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Alter a JSON file as somebody would who knows how it is sealed."""
    content = json.loads(path.read_bytes())
    change(content)
    kind = Manifest if path.name == "manifest.json" else Receipt
    alter(path, kind.model_validate_json(json.dumps(content)).sealed().model_dump_json(indent=1).encode())


def test_the_same_rows_in_two_shards(tmp_path: Path) -> None:
    """The second shard of a language says what the first said: every file is sound, the store is not."""
    store = make_store(tmp_path)
    for unit in units():
        tables = make_tables(units()[0] if unit.index == 1 else unit)
        store.write(unit, tables)
    assert store.verify() == [f"{store.folder} holds the same row of language 'de' in two shards"]


def test_a_receipt_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    reseal(store.receipt_path(2), lambda receipt: receipt.update(versions={"orch": "9"}))
    (problem,) = Store.open(store.folder).verify()
    assert problem.startswith(f"{store.receipt_path(2)} is not the receipt that the manifest lists")


def test_a_receipt_with_other_counts(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    reseal(store.receipt_path(2), lambda receipt: receipt.update(num_masked=1))
    assert any("does not count what its tables hold" in problem for problem in Store.open(store.folder).verify())


# --- the manifest -------------------------------------------------------------------------------------------------


def test_an_altered_fingerprint_no_longer_fits_the_folder(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    parts = {**FINGERPRINT.parts, "seed": 8}
    reseal(store.folder / "manifest.json", lambda m: m.update(fingerprint=parts, digest=Fingerprint(parts).digest))
    with pytest.raises(
        StoreError, match=rf"manifest.json was altered or is of another store.*bert-{FINGERPRINT.digest}"
    ):
        Store.open(store.folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fingerprint": {}}, "its fingerprint was altered"),
        ({"format": 2}, "format: Input should be 1"),
        ({"codec": "int4"}, "codec: Input should be 'fp16' or 'int8'"),
        ({"sizes": {"width": "96", "head_width": 1, "vocab_size": 1}}, "sizes.width: Input should be a valid integer"),
        ({"sizes": {"width": 0, "head_width": 1, "vocab_size": 1}}, "are out of bounds"),
        ({"password": "x"}, "password: Extra inputs are not permitted"),
        ({"teacher": "../../etc"}, "teacher: String should match pattern"),
        ({"languages": ["de", "de"]}, "a language is listed twice"),
    ],
)
def test_a_manifest_that_cannot_be(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    path = full_store(tmp_path).folder / "manifest.json"
    alter(path, json.dumps(json.loads(path.read_bytes()) | change).encode())
    with pytest.raises(StoreError) as caught:
        Store.open(path.parent)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_receipt_may_not_name_other_files(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    path = store.receipt_path(1)
    receipt = json.loads(path.read_bytes())
    receipt["tables"]["../../../etc/passwd"] = receipt["tables"].pop("tokens")
    alter(path, json.dumps(receipt).encode())
    with pytest.raises(StoreError, match="String should match pattern"):
        store.shard(1)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format": 1' + b" " * 300_000 + b"}"]
)
def test_json_that_is_none(tmp_path: Path, data: bytes) -> None:
    store = full_store(tmp_path)
    for path in (store.receipt_path(0), store.folder / "manifest.json"):
        alter(path, data)
    with pytest.raises(OrchError, match=r"manifest\.json"):
        Store.open(store.folder)
    with pytest.raises(OrchError, match=r"000000\.json"):
        store.shard(0)
    assert len(store.verify()) == 1


# --- any damage ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = full_store(tmp_path_factory.mktemp("store")).folder
    return folder, contents(folder)


mutations = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.integers(1, 100)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("copy"), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)


def mutate(data: bytes, kind: str, where: float, what: int | bytes | float) -> bytes:
    at = int(where * len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ what]) + data[at + 1 :]
    if kind == "cut":
        return data[:at] + data[at + what :]
    if kind == "insert":
        return data[:at] + what + data[at:]
    source = int(what * len(data))
    return data[:at] + data[source : source + 16] + data[at + 16 :]


def read_everything(folder: Path) -> tuple[object, object]:
    store = Store.open(folder)
    shards = [store.shard(unit.index) for unit in store.units]
    data = [
        (name, str(array.dtype), array.shape, array.tobytes())
        for shard in shards
        for columns in shard.values()
        for name, array in columns.items()
    ]
    about = (store.teacher, store.request, store.codec, store.languages, store.units, store.counts(), store.fingerprint)
    return about, data


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_is_read_as_something_else(sound: tuple[Path, dict[str, bytes]], data: st.DataObject) -> None:
    """Either the mutation is refused by a sentence that names the file, or it changed nothing of what is read."""
    folder, files = sound
    expected = read_everything(folder)
    name = data.draw(st.sampled_from(sorted(files)))
    mutated = mutate(files[name], *data.draw(mutations))
    alter(folder / name, mutated)
    refusal = None
    try:
        found = read_everything(folder)
    except StoreError as error:
        refusal = str(error)
    finally:
        alter(folder / name, files[name])
    if refusal is not None:
        assert str(folder / name) in refusal
    else:
        assert found == expected
        assert mutated == files[name] or name.endswith(".json")


@given(st.sampled_from(["texts", "tokens", "masked", "hidden_03"]), st.lists(mutations, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_forged_receipt_crashes_no_reader(
    sound: tuple[Path, dict[str, bytes]], table: str, changes: list[tuple[str, float, int | bytes | float]]
) -> None:
    """Where the receipt was made to fit the mutated file, Arrow's checks, the schema and the rows stand in the way."""
    folder, files = sound
    name, receipt_name = f"{TABLES}/{table}.arrow", f"{TABLES}.json"
    mutated = files[name]
    for change in changes:
        mutated = mutate(mutated, *change)
    receipt = Receipt.model_validate_json(files[receipt_name])
    entry = receipt.tables[table].model_copy(update={"num_bytes": len(mutated), "hash": hash_bytes(mutated)})
    forged = receipt.model_copy(update={"tables": {**receipt.tables, table: entry}}).sealed()
    alter(folder / name, mutated)
    alter(folder / receipt_name, forged.model_dump_json(indent=1).encode())
    refusal = str(folder / name)
    try:
        store = Store.open(folder)
        for schema, columns in ((store.schema[name], found) for name, found in store.shard(1).items()):
            for column, array in columns.items():
                assert array.dtype == schema[column].dtype
                assert array.tobytes() is not None  # every byte can be touched
    except StoreError as error:
        refusal = str(error)
    finally:
        alter(folder / name, files[name])
        alter(folder / receipt_name, files[receipt_name])
    assert str(folder / name) in refusal or str(folder / receipt_name) in refusal


def test_hashes_are_of_the_whole_file(tmp_path: Path) -> None:
    store = full_store(tmp_path, REQUEST)
    receipt = store.receipt(0)
    assert receipt is not None
    for table, entry in receipt.tables.items():
        assert entry.hash == hash_file(store.table_path(0, table))
        assert entry.num_rows == len(next(iter(store.shard(0)[table].values())))
    assert np.array_equal(store.shard(0)["texts"]["row_id"], make_tables(units()[0])["texts"]["row_id"])
