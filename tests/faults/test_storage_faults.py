"""Every call to the disk of writing a shard, its receipt and the manifest fails once; nothing is lost or wrong."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import StorageError, StoreError
from orchestrator.records import SignalRequest, Tables
from orchestrator.signals import Store, count_receipts, store_folder
from orchestrator.storage import local as storage
from tests.faults.disks import Crash, CrashingDisk, FaultyDisk, RefusingDisk
from tests.signals.samples import FINGERPRINT, contents, full_store, hidden, make_store, make_tables, units

SMALL = SignalRequest(top_k=4, states=hidden(3))
LARGE = replace(SMALL, states=hidden(3, 7))
PLAN = units(texts=1, per_shard=1)  # one shard of each of two languages


@pytest.fixture(autouse=True)
def _the_disk_is_mended_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "disk", FaultyDisk())  # no real fsync


def write_last_shard(signals: Path) -> None:
    """The second shard of a store that holds the first, and the end of the run."""
    store = Store.open(store_folder(signals, "bert", FINGERPRINT))
    store.write(PLAN[1], make_tables(PLAN[1], SMALL))
    store.finish()


def add_a_layer(signals: Path) -> None:
    """Hidden layer 7 beside what both shards hold."""
    store = make_store(signals, LARGE, plan=PLAN)
    for unit in store.missing():
        store.write(unit, make_tables(unit, LARGE))
    store.finish()


def half_a_store(signals: Path) -> None:
    store = make_store(signals, SMALL, plan=PLAN)
    store.write(PLAN[0], make_tables(PLAN[0], SMALL))


def whole_store(signals: Path) -> None:
    half_a_store(signals)
    write_last_shard(signals)


Step = Callable[[Path], None]
SCENARIOS = [
    pytest.param(half_a_store, write_last_shard, {0}, id="last shard"),
    pytest.param(whole_store, add_a_layer, {0, 1}, id="added layer"),
]


def equal(found: Tables, expected: Tables) -> bool:
    return all(
        np.array_equal(column, expected[table][name]) for table in found for name, column in found[table].items()
    )


def check_what_is_there(signals: Path, committed: set[int]) -> None:
    """No committed shard is lost, and a shard that can be read is right."""
    store = Store.open(store_folder(signals, "bert", FINGERPRINT))
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


def faults(
    before: Step, step: Step, tmp_path: Path, make: Callable[[int], FaultyDisk]
) -> Iterator[tuple[Path, FaultyDisk]]:
    """For every call that `step` makes to the disk: a fresh folder and a disk that fails at that call."""
    before(tmp_path / "before")
    for call in range(10_000):
        signals = tmp_path / f"{call}"
        shutil.copytree(tmp_path / "before", signals)
        disk = make(call)
        yield signals, disk
        if not disk.failed:
            assert call > 30
            return
        shutil.rmtree(signals)


@pytest.mark.parametrize(("before", "step", "committed"), SCENARIOS)
@pytest.mark.parametrize("power", ["kept", "lost"])
def test_a_crash_at_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Step, step: Step, committed: set[int], power: str
) -> None:
    before(tmp_path / "clean")
    step(tmp_path / "clean")
    expected = contents(tmp_path / "clean")
    for signals, disk in faults(before, step, tmp_path, CrashingDisk):
        monkeypatch.setattr(storage, "disk", disk)
        try:
            step(signals)
        except Crash:
            assert disk.failed
        monkeypatch.setattr(storage, "disk", FaultyDisk())
        if power == "lost":
            disk.lose_power()
        assert disk.failed or contents(signals) == expected, "what was reported as written is there"
        check_what_is_there(signals, committed)

        storage.remove_temporaries(signals)
        step(signals)  # the same command again
        assert contents(signals) == expected
        assert Store.open(store_folder(signals, "bert", FINGERPRINT)).verify() == []


@pytest.mark.parametrize(("before", "step", "committed"), SCENARIOS)
def test_a_refusal_at_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Step, step: Step, committed: set[int]
) -> None:
    before(tmp_path / "clean")
    step(tmp_path / "clean")
    expected = contents(tmp_path / "clean")
    for signals, disk in faults(before, step, tmp_path, RefusingDisk):
        monkeypatch.setattr(storage, "disk", disk)
        refusal = None
        try:
            step(signals)
        except StorageError as error:
            refusal = str(error)
        assert (refusal is not None) == disk.failed, "a refusal may not pass in silence"
        assert refusal is None or (str(signals) in refusal and "run the same command again" in refusal)
        monkeypatch.setattr(storage, "disk", FaultyDisk())
        check_what_is_there(signals, committed)
        assert not list(signals.rglob("*.tmp-*")), "a refusal leaves no temporary file"

        step(signals)
        assert contents(signals) == expected


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
