"""A run whose text, signals and vocabularies lie on an S3 server is the run on a disk, to the byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.storage import hash_bytes, hash_file
from tests.e2e.command import Result, orch
from tests.e2e.conftest import copy_of
from tests.e2e.project import CONFIG, write_config
from tests.s3_server import BUCKET, S3Server, damage, objects, serving

pytestmark = pytest.mark.timeout(900)  # seconds when nobody else computes

STORES = f"s3://{BUCKET}/shared"
SETUP = ("--setup", "many-to-one")


@dataclass
class Twins:
    """The same project, run on a disk and by URL; what the second said, and how many requests it took."""

    disk: Path
    url: Path
    server: S3Server
    result: Result
    num_requests: int


@pytest.fixture(scope="module")
def twins(made_project: Path, shelf: Path) -> Iterator[Twins]:
    patch = pytest.MonkeyPatch()
    folder = copy_of(made_project, shelf)  # one folder of text: its paths and times name the corpus
    with serving(patch, folder / "cache") as server:
        write_config(folder, {"run": CONFIG["run"] | {"root": "disk"}}, name="disk.yaml")
        write_config(folder, {"run": CONFIG["run"] | {"root": "url", "stores": STORES}}, name="url.yaml")
        assert orch("run", *SETUP, "-c", "disk.yaml", folder=folder).status == 0
        assert not server.requests
        result = orch("run", *SETUP, "-c", "url.yaml", folder=folder)
        yield Twins(folder / "disk", folder / "url", server, result, len(server.requests))
    patch.undo()


def stored(twins: Twins) -> dict[str, str]:
    """Name -> hash of text, signals and vocabularies in the bucket."""
    kept = (f"shared/{room}/" for room in ("corpus", "signals", "vocab"))
    prefixes = tuple(kept)
    found = {key.removeprefix("shared/"): data for key, data in objects().items() if key.startswith(prefixes)}
    return {key: hash_bytes(data) for key, data in found.items() if not key.endswith("/folder.json")}


def files(root: Path, *rooms: str) -> dict[str, str]:
    found = (path for room in rooms for path in (root / room).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hash_file(path) for path in found}


def test_the_bucket_holds_what_the_disk_holds(twins: Twins) -> None:
    assert (twins.result.status, twins.result.err) == (0, "")
    expected = files(twins.disk, "corpus", "signals", "vocab")
    found = stored(twins)
    assert found.keys() == expected.keys()
    differing = {name for name in expected if expected[name] != found[name]}
    assert {name.rpartition("/")[2] for name in differing} <= {"report.html", "report.json"}, differing
    assert sum(name.endswith(".arrow") for name in expected) > 20


def test_the_students_are_equal_to_the_bit(twins: Twins) -> None:
    weights = {name: hash for name, hash in files(twins.disk, "students").items() if name.endswith(".safetensors")}
    ours = {name: hash for name, hash in files(twins.url, "students").items() if name.endswith(".safetensors")}
    assert any("/final/" in name for name in weights)
    assert ours == weights
    assert not (twins.url / "signals").exists()
    assert not (twins.url / "corpus").exists()


def test_run_again_does_nothing_and_status_plan_and_verify_agree(twins: Twins) -> None:
    folder, before = twins.url.parent, stored(twins)
    weights = files(twins.url, "students")
    for command in ("plan", "status"):
        result = orch(command, *SETUP, "-c", "url.yaml", folder=folder)
        assert (result.status, result.err) == (0, ""), command
    assert "0 / 6" not in result.out
    twins.server.requests.clear()
    again = orch("run", *SETUP, "-c", "url.yaml", folder=folder)
    assert (again.status, again.err) == (0, "")
    written = [path for method, path in twins.server.requests if method != "GET" and method != "HEAD"]
    assert all("/.lock/" in path for path in written)
    assert (stored(twins), files(twins.url, "students")) == (before, weights)
    verified = orch("verify", *SETUP, "-c", "url.yaml", folder=folder)
    assert (verified.status, verified.err) == (0, "")


def test_another_machine_trains_from_the_bucket_alone(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = twins.url.parent
    monkeypatch.setenv("ORCH_CACHE", str(folder / "other cache"))
    write_config(folder, {"run": CONFIG["run"] | {"root": "other", "stores": STORES}}, name="other.yaml")
    twins.server.requests.clear()
    assert orch("run", *SETUP, "-c", "other.yaml", folder=folder).status == 0
    written = [path for method, path in twins.server.requests if method not in {"GET", "HEAD"}]
    assert all("/.lock/" in path for path in written)
    final = "students/many-to-one/student/final/model.safetensors"
    assert hash_file(folder / "other" / final) == hash_file(twins.disk / final)
    shutil.rmtree(folder / "other")


def test_no_credential_is_written_anywhere(twins: Twins) -> None:
    for path in twins.url.rglob("*"):
        assert not path.is_file() or b"hidden-word" not in path.read_bytes(), path
    assert not any(b"hidden-word" in data for data in objects().values())


def test_the_costs_of_teachers_are_in_the_bucket(twins: Twins) -> None:
    lines = [json.loads(data) for key, data in objects().items() if key.startswith("shared/logs/costs.jsonl/")]
    assert {line["teacher"] for line in lines} == {"multilingual", "english"}


def test_verify_names_a_damaged_object(twins: Twins) -> None:
    """Last: the bucket is worse for it."""
    shard = next(key for key in objects() if key.endswith("/tokens.arrow"))
    text = next(key for key in objects() if "/corpus/" in key and key.endswith(".arrow"))
    piece = next(key for key in objects() if "/vocab/" in key and key.endswith(".npy"))
    for key in (shard, text, piece):
        damage(key)
    result = orch("verify", *SETUP, "-c", "url.yaml", folder=twins.url.parent)
    assert result.status == 1
    for key in (shard, text, piece):
        assert f"s3://{BUCKET}/{key}" in (result.out + result.err).replace("\n", ""), key
