"""Every call to the disk of a shard, receipt, manifest, checkpoint or table of a sweep fails once; nothing is lost."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import StorageError, StoreError
from orchestrator.records import SignalRequest, Tables
from orchestrator.report.comparison import ComparedCell, Comparison, Figure, Measure, write_comparison
from orchestrator.signals import Store, count_receipts, store_folder
from orchestrator.storage import local as storage
from orchestrator.students import checkpoint as checkpoints
from tests.faults.conftest import Note
from tests.faults.disks import Crash, CrashingDisk, FaultyDisk, FullDisk, RefusingDisk
from tests.faults.figures import size
from tests.signals.samples import FINGERPRINT, contents, full_store, hidden, make_store, make_tables, units
from tests.students import test_checkpoint as samples

pytestmark = pytest.mark.timeout(1800)  # seconds when nobody else computes

SMALL = SignalRequest(top_k=4, states=hidden(3))
LARGE = replace(SMALL, states=hidden(3, 7))
PLAN = units(texts=1, per_shard=1)  # one shard of each of two languages
STUDENTS = ("ann", "bob")


@pytest.fixture(autouse=True)
def _the_disk_is_mended_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "disk", FaultyDisk())  # no real fsync


@dataclass(frozen=True)
class Scenario:
    """Work on a folder: `check` fails when something committed is lost, or something wrong can be read."""

    name: str
    before: Callable[[Path], None]
    step: Callable[[Path], None]
    check: Callable[[Path], None]


def half_a_store(folder: Path) -> None:
    store = make_store(folder, SMALL, plan=PLAN)
    store.write(PLAN[0], make_tables(PLAN[0], SMALL))


def write_last_shard(folder: Path) -> None:
    """The second shard of a store that holds the first, and the end of the run."""
    store = Store.open(store_folder(folder, "bert", FINGERPRINT))
    store.write(PLAN[1], make_tables(PLAN[1], SMALL))
    store.finish()


def whole_store(folder: Path) -> None:
    half_a_store(folder)
    write_last_shard(folder)


def add_a_layer(folder: Path) -> None:
    """Hidden layer 7 beside what both shards hold."""
    store = make_store(folder, LARGE, plan=PLAN)
    for unit in store.missing():
        store.write(unit, make_tables(unit, LARGE))
    store.finish()


def equal(found: Tables, expected: Tables) -> bool:
    return all(
        np.array_equal(column, expected[table][name]) for table in found for name, column in found[table].items()
    )


def check_store(committed: set[int]) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        store = Store.open(store_folder(folder, "bert", FINGERPRINT))
        for unit in store.units:
            expected = make_tables(unit, LARGE)
            try:
                found = store.shard(unit.index, [*set(store.schema) - {"hidden_07"}])
            except StoreError:
                assert unit.index not in committed
                continue
            assert equal(found, expected)
            if unit not in store.missing():
                assert equal(store.shard(unit.index), expected)

    return check


def first_checkpoint(folder: Path) -> None:
    for name in STUDENTS:
        samples.save(folder / name, 1)


def next_checkpoint(folder: Path) -> None:
    """A group goes on, saves its next step, and only then removes the one before."""
    checkpoints.load_latest({name: folder / name for name in STUDENTS}, fingerprint="f")
    for name in STUDENTS:
        samples.save(folder / name, 2)
    for name in STUDENTS:
        checkpoints.prune(folder / name, keep=1)


def check_checkpoint(folder: Path) -> None:
    """Both students have the same step whole: the old one or the new one."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)  # opening clears away, which is not for the check to do
    found = checkpoints.load_latest({name: copy / name for name in STUDENTS}, fingerprint="f")
    shutil.rmtree(copy)
    assert found is not None
    (step,) = {saved.step for saved in found.values()}
    assert step in (1, 2)
    assert all(samples.same(saved, samples.make(step)) for saved in found.values())


def write_table(accuracy: float) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        measures = [Measure("accuracy", "Accuracy", 1, True, "Share of tokens.")]
        cells = [ComparedCell("soft", "cell", "", {"accuracy": Figure(accuracy, None, 1, 2)}, seconds=3.0)]
        write_comparison(Comparison("sweep", "soft", [1], measures, cells), folder)

    return write


def check_table(folder: Path) -> None:
    """Each of the four forms is the old one or the new one."""
    wholes = []
    for accuracy in (0.25, 0.5):
        clean = folder.with_name(f"table-{accuracy}")
        if not clean.exists():
            write_table(accuracy)(clean)
        wholes.append(contents(clean))
    for name in wholes[0]:
        assert (folder / name).read_bytes() in [whole[name] for whole in wholes]


SCENARIOS = [
    Scenario("shard, receipt, manifest", half_a_store, write_last_shard, check_store({0})),
    Scenario("shards that get a table", whole_store, add_a_layer, check_store({0, 1})),
    Scenario("checkpoint", first_checkpoint, next_checkpoint, check_checkpoint),
    Scenario("sweep", write_table(0.25), write_table(0.5), check_table),
]
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


def faults(scenario: Scenario, tmp_path: Path, make: Callable[[int], FaultyDisk]) -> Iterator[tuple[Path, FaultyDisk]]:
    """For calls that the step makes to the disk (every one, or every third): a folder and a disk that fails there."""
    scenario.before(tmp_path / "before")
    for call in range(0, 10_000, size(3, 1)):
        folder = tmp_path / f"{call}"
        shutil.copytree(tmp_path / "before", folder)
        disk = make(call)
        yield folder, disk
        if not disk.failed:
            assert call > 18
            return
        shutil.rmtree(folder)


def done(scenario: Scenario, tmp_path: Path) -> dict[str, bytes]:
    """What the step leaves when nothing is in its way."""
    scenario.before(tmp_path / "clean")
    scenario.step(tmp_path / "clean")
    return contents(tmp_path / "clean")


@each_scenario
@pytest.mark.parametrize("power", ["kept", "lost"])
def test_a_crash_at_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note, scenario: Scenario, power: str
) -> None:
    """A write that is hit is torn; with the power goes whatever was not synced."""
    expected, num_points = done(scenario, tmp_path), 0
    for folder, disk in faults(scenario, tmp_path, CrashingDisk):
        monkeypatch.setattr(storage, "disk", disk)
        with suppress(Crash):
            scenario.step(folder)
        monkeypatch.setattr(storage, "disk", FaultyDisk())
        if power == "lost":
            disk.lose_power()
        assert disk.failed or contents(folder) == expected, "what was reported as written is there"
        scenario.check(folder)

        storage.remove_temporaries(folder)
        scenario.step(folder)  # the same command again
        assert contents(folder) == expected
        num_points += disk.failed
    what = "kill, torn write" if power == "kept" else "unsynced data dropped"
    note("a crash at any I/O call", f"{scenario.name}, {what}: {num_points} points, 0 violations")


@each_scenario
@pytest.mark.parametrize("make", [RefusingDisk, FullDisk], ids=["EIO", "ENOSPC"])
def test_a_refusal_at_any_call(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    note: Note,
    scenario: Scenario,
    make: Callable[[int], FaultyDisk],
) -> None:
    expected, num_points = done(scenario, tmp_path), 0
    for folder, disk in faults(scenario, tmp_path, make):
        monkeypatch.setattr(storage, "disk", disk)
        refusal = None
        try:
            scenario.step(folder)
        except StorageError as error:
            refusal = str(error)
        assert (refusal is not None) == disk.failed, "a refusal may not pass in silence"
        assert refusal is None or (str(folder) in refusal and "run the same command again" in refusal)
        assert refusal is None or make is RefusingDisk or "the disk is full" in refusal
        monkeypatch.setattr(storage, "disk", FaultyDisk())
        scenario.check(folder)
        assert not list(folder.rglob("*.tmp-*")), "a refusal leaves no temporary file"

        scenario.step(folder)
        assert contents(folder) == expected
        num_points += disk.failed
    name = "EIO" if make is RefusingDisk else "ENOSPC"
    note("a crash at any I/O call", f"{scenario.name}, {name}: {num_points} points, 0 violations")


def test_a_disk_that_stays_full_loses_nothing_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(FaultyDisk):
        def write(self, descriptor: int, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    store = full_store(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(storage, "disk", Full())
    wide = replace(store.request, states=hidden(0, 3, 5))
    with pytest.raises(StorageError, match=r"manifest.json cannot be written: the disk is full \([0-9.]+ MB free\)"):
        make_store(tmp_path, wide)
    assert contents(tmp_path) == before
    assert count_receipts(store.folder) == 4
    assert equal(Store.open(store.folder).shard(2), make_tables(store.units[2]))
