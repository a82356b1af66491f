"""A store is made, filled, read, widened and found again."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import StoreError
from orchestrator.records import SignalRequest, StateKey, Tables, Unit
from orchestrator.signals import Counts, Fingerprint, Store, as_tensor, count_receipts, find_store, store_folder
from tests.signals.samples import (
    EVERYTHING,
    FINGERPRINT,
    LANGUAGES,
    REQUEST,
    SIZES,
    contents,
    full_store,
    hidden,
    make_store,
    make_tables,
    units,
)


def same(found: Tables, expected: Tables) -> bool:
    """Bit for bit, with the same types."""
    return found.keys() == expected.keys() and all(
        columns.keys() == expected[table].keys()
        and all(
            column.dtype == expected[table][name].dtype and np.array_equal(column, expected[table][name])
            for name, column in columns.items()
        )
        for table, columns in found.items()
    )


@pytest.mark.parametrize("codec", ["int8", "fp16"])
@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        EVERYTHING,
        replace(EVERYTHING, at_all_tokens=False),
        SignalRequest(),
        SignalRequest(states=hidden(1)),
        SignalRequest(top_k=1),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, codec: str, request_: SignalRequest) -> None:
    store = make_store(tmp_path, request_, codec)
    for unit in store.units:
        store.write(unit, make_tables(unit, request_, codec))
    again = Store.open(store.folder)
    for unit in units():
        assert same(again.shard(unit.index), make_tables(unit, request_, codec))
    assert again.verify() == []


def test_a_store_knows_what_it_was_made_with(tmp_path: Path) -> None:
    store = Store.open(make_store(tmp_path).folder)
    assert (store.teacher, store.fingerprint, store.request) == ("bert", FINGERPRINT, REQUEST)
    assert (store.codec, store.sizes, store.languages, store.units) == ("int8", SIZES, LANGUAGES, units())
    assert store.folder.name == f"bert-{FINGERPRINT.digest}"
    assert not store.finished


def test_a_unit_is_missing_until_it_is_written(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    plan = units()
    assert store.missing() == plan
    receipt = store.write(plan[2], make_tables(plan[2]))
    assert receipt.unit == plan[2]
    assert store.missing() == [plan[0], plan[1], plan[3]]
    assert count_receipts(store.folder) == 1
    assert store.receipts() == {2: receipt}
    assert count_receipts(tmp_path / "nowhere") == 0


def test_finish_wants_every_shard_and_lists_the_receipts(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for unit in units()[:3]:
        store.write(unit, make_tables(unit))
    with pytest.raises(
        StoreError, match=r"1 of 4 shards of .* are missing, the first is shard 3; run `orch precompute"
    ):
        store.finish()
    last = store.write(units()[3], make_tables(units()[3]))
    store.finish()
    assert store.finished
    assert Store.open(store.folder).finished
    assert Store.open(store.folder).listed_receipts[3] == last.checksum


def test_counts_by_language_come_from_the_receipts(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    expected = dict.fromkeys(LANGUAGES, np.zeros(3, int))
    for unit in units():
        tables = make_tables(unit)
        sizes = [len(next(iter(tables[name].values()))) for name in ("texts", "tokens", "masked")]
        expected[unit.language] = expected[unit.language] + sizes
    assert store.counts() == {language: Counts(*map(int, sizes)) for language, sizes in expected.items()}


def test_a_unit_that_runs_twice_leaves_the_same_bytes(tmp_path: Path) -> None:
    first, second = full_store(tmp_path / "a"), full_store(tmp_path / "b")
    assert contents(first.folder) == contents(second.folder)
    before = contents(first.folder)
    for unit in units():
        assert first.write(unit, make_tables(unit)) == first.receipt(unit.index)
    first.finish()
    assert contents(first.folder) == before


def test_views_are_zero_copy_and_cannot_be_written(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    values = store.shard(0)["hidden_03"]["values"]
    assert values.base is not None
    assert np.shares_memory(values, store.shard(0)["hidden_03"]["values"]), "opened once"
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 0
    tensor = as_tensor(values)
    assert tensor.data_ptr() == values.ctypes.data
    assert torch.equal(tensor, torch.tensor(make_tables(units()[0])["hidden_03"]["values"]))
    assert as_tensor(store.shard(0)["topk_004"]["top"]).dtype == torch.float16


def test_only_the_tables_that_are_wanted_are_touched(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    store.table_path(1, "hidden_03").unlink()
    assert list(store.shard(1, ["texts", "masked"])) == ["texts", "masked"]
    with pytest.raises(StoreError, match=r"000001/hidden_03.arrow is damaged \(the file is missing\)"):
        store.shard(1)
    with pytest.raises(StoreError, match="does not hold 'hidden_05'"):
        store.shard(1, ["hidden_05"])


def test_an_open_store_travels_to_another_process(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    store.shard(0)
    data = pickle.dumps(store)
    assert len(data) < 10_000
    assert same(pickle.loads(data).shard(0), make_tables(units()[0]))


# --- a larger request ---------------------------------------------------------------------------------------------


def test_hidden_layers_are_added_beside_what_is_there(tmp_path: Path) -> None:
    before = contents(full_store(tmp_path).folder)
    store = make_store(tmp_path, replace(REQUEST, states=hidden(3, 7)))
    assert store.request.states == hidden(0, 3, 7)
    assert store.missing() == units()
    assert not store.finished
    for unit in units():
        only_new = make_tables(unit, SignalRequest(states=hidden(7)))  # no distribution, no other layer
        store.write(unit, only_new)
    store.finish()
    after = contents(store.folder)
    assert after.keys() - before.keys() == {f"shards/{i:06d}/hidden_07.arrow" for i in range(4)}
    assert all(after[name] == data for name, data in before.items() if name.endswith(".arrow"))
    assert same(store.shard(1), make_tables(units()[1], store.request))
    assert store.verify() == []


def test_a_widened_store_is_the_one_that_was_asked_for_at_once(tmp_path: Path) -> None:
    full_store(tmp_path / "a")
    wide = replace(REQUEST, states=hidden(0, 3, 7))
    assert contents(full_store(tmp_path / "a", wide).folder) == contents(full_store(tmp_path / "b", wide).folder)


def test_any_signal_is_added_beside_what_is_there(tmp_path: Path) -> None:
    """One after the other, and each time only its own tables are asked for; the last state is that of all at once."""
    steps = [
        (SignalRequest(sentence_vectors=True), {"sentence_vectors"}),
        (SignalRequest(draws=7), {"draws_007", "drawn_007"}),
        (SignalRequest(top_k=4), {"topk_004"}),
        (SignalRequest(top_k=4, temperatures=(2.0,)), {"partition", "partition_t2"}),
        (SignalRequest(top_k=4, temperatures=(1.5,)), {"partition_t1.5"}),
        (SignalRequest(head_states=True), {"head_states"}),
        (SignalRequest(states=(StateKey("query", 2),)), {"query_02"}),
    ]
    full_store(tmp_path / "a", SignalRequest())
    total = SignalRequest()
    for request, tables in steps:
        before = contents(make_store(tmp_path / "a", SignalRequest()).folder)
        total |= request
        store = make_store(tmp_path / "a", request)
        assert store.request == total
        assert all(set(store.lacking(unit)) == tables for unit in units())
        after = contents(full_store(tmp_path / "a", request).folder)
        assert all(after[name] == data for name, data in before.items() if name.endswith(".arrow"))
    assert after == contents(full_store(tmp_path / "b", total).folder)


@pytest.mark.parametrize(
    ("request_", "gone"),
    [
        (replace(REQUEST, top_k=8), {"topk_004"}),
        (replace(REQUEST, at_all_tokens=True), {"topk_004", "partition", "partition_t2"}),
    ],
)
def test_what_grows_replaces_its_table_when_all_of_it_is_there(
    tmp_path: Path, request_: SignalRequest, gone: set[str]
) -> None:
    reader = full_store(tmp_path)
    opened = reader.shard(1)
    store = make_store(tmp_path, request_)
    for unit in units():
        store.write(unit, make_tables(unit, store.request))
        assert Store.open(store.folder).verify() == [
            f"{store.receipt_path(later.index)} lists no table '{table}'; run `orch precompute-teacher` again"
            for later in units()[unit.index + 1 :]
            for table in store.lacking(later)
        ]
    before = contents(store.folder)
    store.finish()
    after = contents(store.folder)
    assert before.keys() - after.keys() == {f"shards/{i:06d}/{table}.arrow" for i in range(4) for table in gone}
    assert store.verify() == []
    assert after == contents(full_store(tmp_path / "b", request_).folder)
    assert same(opened, make_tables(units()[1])), "what is open stays"


def test_what_a_wider_store_would_lack_is_known_without_writing(tmp_path: Path) -> None:
    before = contents(full_store(tmp_path).folder)
    store = make_store(tmp_path)
    wider = store.widened(SignalRequest(draws=7))
    assert wider.missing() == units()
    assert wider.lacking(units()[0]) == ["draws_007", "drawn_007"]
    assert (store.missing(), store.widened(SignalRequest(top_k=2)).missing()) == ([], [])
    assert contents(store.folder) == before


def test_a_smaller_request_changes_nothing(tmp_path: Path) -> None:
    before = contents(full_store(tmp_path).folder)
    store = make_store(tmp_path, SignalRequest(top_k=2))
    assert (store.request, store.missing(), store.finished) == (REQUEST, [], True)
    assert contents(store.folder) == before


def test_a_reader_that_asked_for_less_is_not_disturbed(tmp_path: Path) -> None:
    reader = full_store(tmp_path)
    full_store(tmp_path, replace(REQUEST, states=hidden(5)))
    assert same(reader.shard(0), make_tables(units()[0]))


def test_added_layers_must_be_of_the_same_rows(tmp_path: Path) -> None:
    full_store(tmp_path)
    store = make_store(tmp_path, replace(REQUEST, states=hidden(7)))
    for table, name in [("tokens", "input_id"), ("texts", "row_id"), ("masked", "label_id")]:
        tables = make_tables(units()[0], store.request)
        tables[table][name][0] += 1
        with pytest.raises(
            StoreError, match=rf"rows of unit 0 are not those in .*{table}\.arrow; was the corpus changed"
        ):
            store.write(units()[0], tables)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"codec": "fp16"}, 'was made with hidden codec "int8", the configuration asks "fp16"'),
        ({"sizes": replace(SIZES, width=64)}, "was made with sizes width 96, the configuration asks 64"),
        ({"plan": units(texts=15)}, r"was made with texts de \[\[0,10\]\], the configuration asks \[\[0,15\]\]"),
    ],
)
def test_what_cannot_be_added_is_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    make_store(tmp_path)
    with pytest.raises(StoreError, match=sentence):
        make_store(tmp_path, **change)


def test_other_cuts_of_the_same_texts_keep_the_shards_that_are_there(tmp_path: Path) -> None:
    full_store(tmp_path)
    store = make_store(tmp_path, plan=units(per_shard=2))
    assert store.units == units()
    assert store.missing() == []


# --- what is refused at the door ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ([Unit("bert", 0, "en", 0, 5), Unit("bert", 0, "en", 5, 5)], "two units have one index"),
        ([Unit("bert", 0, "en", 0, 5), Unit("bert", 1, "en", 4, 5)], "unit 1 repeats texts of en"),
        ([Unit("gpt", 0, "en", 0, 5)], "unit 0 is of teacher 'gpt'"),
        ([Unit("bert", 0, "fr", 0, 5)], "language 'fr'"),
        ([Unit("bert", -1, "en", 0, 5)], "out of bounds"),
        ([Unit("bert", 0, "en", 0, 0)], "out of bounds"),
    ],
)
def test_impossible_plans(tmp_path: Path, plan: list[Unit], sentence: str) -> None:
    with pytest.raises(StoreError, match=f"manifest.json cannot be made .*{sentence}"):
        make_store(tmp_path, plan=plan)
    assert not list(tmp_path.iterdir())


def test_units_and_tables_that_do_not_belong_here(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    unit = units()[0]
    with pytest.raises(StoreError, match="is not a unit of the store"):
        store.write(replace(unit, num_texts=4), make_tables(unit))
    with pytest.raises(StoreError, match="rows of another language"):
        store.write(unit, make_tables(units()[3]))
    tables = make_tables(unit)
    del tables["hidden_03"]
    with pytest.raises(StoreError, match="without table 'hidden_03'"):
        store.write(unit, tables)
    tables = make_tables(unit)
    tables["topk_004"]["ids_low"] = tables["topk_004"]["ids_low"].astype(np.int64)
    with pytest.raises(StoreError, match=r"column 'ids_low' of table 'topk_004' is int64 \[\d+, 4\] where uint16"):
        store.write(unit, tables)
    tables = make_tables(unit, sizes=replace(SIZES, width=64))
    with pytest.raises(
        StoreError, match=r"column 'values' of table 'hidden_00' is int8 \[\d+, 64\] where int8 \[\d+, 96\]"
    ):
        store.write(unit, tables)
    tables = make_tables(unit)
    del tables["topk_004"]["ids_low"]
    with pytest.raises(StoreError, match=r"table 'topk_004' has columns top, span, below where ids_low, .* are wanted"):
        store.write(unit, tables)
    assert count_receipts(store.folder) == 0
    assert not list((store.folder / "shards").iterdir()), "nothing is written before everything is checked"


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(StoreError, match=r"shard 1 of .* is not there; run `orch precompute-teacher`"):
        store.shard(1)
    with pytest.raises(StoreError, match="has no shard 9"):
        store.shard(9)


def test_what_a_kill_left_is_swept_when_a_store_is_opened_to_be_filled(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    left = store.folder / "shards/000001/tokens.arrow.tmp-12-01234567"
    left.write_bytes(b"half")
    make_store(tmp_path)
    assert not left.exists()


# --- finding ------------------------------------------------------------------------------------------------------


def test_the_store_of_a_configuration_is_found(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    assert find_store(tmp_path, "bert", FINGERPRINT).folder == store.folder
    assert store_folder(tmp_path, "bert", FINGERPRINT) == store.folder


def test_the_nearest_store_is_named_with_what_differs(tmp_path: Path) -> None:
    near = Fingerprint({**FINGERPRINT.parts, "corpus": {"max_length": 64, "hash": "cd" * 16}})
    far = Fingerprint({**near.parts, "weights": "00", "seed": 8})
    for fingerprint in (near, far):
        make_store(tmp_path, fingerprint=fingerprint)
    damaged = tmp_path / f"bert-{'0' * 16}" / "manifest.json"
    damaged.parent.mkdir()
    damaged.write_bytes(b"{")
    folder = store_folder(tmp_path, "bert", near)
    with pytest.raises(StoreError) as caught:
        find_store(tmp_path, "bert", FINGERPRINT)
    assert str(caught.value) == (
        f"there are no signals of teacher 'bert' for this configuration: the store {folder} was made with corpus"
        " max_length 64, the configuration asks 128; run `orch precompute-teacher`"
    )


def test_no_store_at_all(tmp_path: Path) -> None:
    make_store(tmp_path)
    with pytest.raises(StoreError, match="there are no signals of teacher 'ber' in"):
        find_store(tmp_path, "ber", FINGERPRINT)
    with pytest.raises(
        StoreError, match=r"there is no signal store in .*manifest.json is missing.*run `orch precompute"
    ):
        Store.open(tmp_path)
