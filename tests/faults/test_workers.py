"""Workers that die, hang, stop and meet poison: every row is there once, every unit is done or named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from orchestrator.cluster import Cluster, Need
from orchestrator.cluster.ray_actors import RayActors
from orchestrator.errors import UnitError
from orchestrator.records import Unit
from orchestrator.signals import Store
from orchestrator.steps import quarantine
from orchestrator.storage import local as storage
from tests.faults.conftest import Note
from tests.faults.disks import FaultyDisk
from tests.faults.figures import IS_LONG, size
from tests.faults.work import REQUEST, ShardWriter, attempts, run
from tests.signals.samples import contents, make_store, make_tables, units

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]  # seconds when nobody else computes


def undisturbed(folder: Path, plan: list[Unit]) -> dict[str, bytes]:
    """Every file of a store whose shards were written one after the other in this process."""
    store = make_store(folder, REQUEST, plan=plan)
    for unit in plan:
        store.write(unit, make_tables(unit, REQUEST))
    store.finish()
    return contents(folder)


def calls_of_shards(folder: Path, plan: list[Unit], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Calls to the disk for each shard: for its tables, and in all; what pads a table is one more."""
    store = make_store(folder, REQUEST, plan=plan)
    for unit in plan:
        disk = FaultyDisk()
        with monkeypatch.context() as patch:
            patch.setattr(storage, "disk", disk)
            receipt = store.write(unit, make_tables(unit, REQUEST))
            in_all, disk.num_calls = disk.num_calls, 0
            receipt.write(folder / "receipt.json")
        yield in_all - disk.num_calls, in_all


def rows_of(store: Store) -> list[tuple[str, int, int]]:
    """(language, row id, copy) of every stored row."""
    texts = [(unit.language, store.shard(unit.index, ["texts"])["texts"]) for unit in store.units]
    return sorted(
        (language, int(row), int(copy))
        for language, table in texts
        for row, copy in zip(table["row_id"], table["copy"], strict=True)
    )


def test_rows_exactly_once(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note) -> None:
    """A worker is killed after the last table's bytes, after its rename, before the receipt, before and after its name;
    in the long form at every call to the disk."""
    plan = units(texts=size(4, 70), per_shard=1)
    points = {}
    for index, (tables, in_all) in enumerate(calls_of_shards(tmp_path / "counted", plan, monkeypatch)):
        chosen = range(in_all) if IS_LONG else [tables - 4, tables - 1, tables, in_all - 2, in_all - 1]
        points |= {index: chosen[index]} if index < len(chosen) else {}
    expected = undisturbed(tmp_path / "expected", plan)
    store = make_store(tmp_path / "store", REQUEST, plan=plan)
    writer = ShardWriter(store.folder, tmp_path / "notes", dies_at=points)
    outcomes = run(cluster, writer)

    assert sorted(outcome.unit.index for outcome in outcomes if outcome.error is None) == [u.index for u in plan]
    assert all(len(attempts(writer.notes, index)) >= 2 for index in points)
    for unit in plan:  # before anything is cleared away, every row is readable once
        store.shard(unit.index)
    found = rows_of(store)
    assert len(found) == len(set(found)) == sum(2 * unit.num_texts for unit in plan)
    store = make_store(tmp_path / "store", REQUEST, plan=plan)  # the next start, which clears away
    store.finish()
    assert contents(tmp_path / "store") == expected
    assert store.verify() == []
    note("rows exactly once", f"{len(points)} kills inside a write, 0 of {len(found)} rows lost, 0 twice")


@pytest.mark.parametrize("repeat", range(size(1, 3)))
def test_a_poisonous_unit_neither_stalls_nor_loops(cluster: Cluster, tmp_path: Path, note: Note, repeat: int) -> None:
    plan = units(texts=8, per_shard=1)
    store = make_store(tmp_path, REQUEST, plan=plan)
    poison = {2 + repeat: "crash", 5 + repeat: "raise", 8 + repeat: "hang", 11 + repeat: "memory"}
    writer = ShardWriter(store.folder, tmp_path / "notes", trouble=poison)  # type: ignore[arg-type]
    outcomes = run(cluster, writer, deadline_seconds=5.0)

    lost = [outcome for outcome in outcomes if outcome.error is not None]
    assert {outcome.unit.index for outcome in lost} == poison.keys()
    assert {unit.index for unit in store.missing()} == poison.keys()
    tried = {index: len(attempts(writer.notes, index)) for index in poison}
    for outcome in lost:
        if poison[outcome.unit.index] == "raise":
            assert tried[outcome.unit.index] == 1
        else:
            assert outcome.attempts == 3
            assert tried[outcome.unit.index] in (2, 3)  # one attempt may be lost while in line
    with pytest.raises(UnitError) as raised:  # the command ends with exit status 1
        quarantine.settle(tmp_path, {"bert": store}, lost, num_units=len(plan))
    for unit in (plan[index] for index in poison):
        last = unit.first_text + unit.num_texts - 1
        assert f"texts {unit.first_text} to {last} of {unit.language}" in str(raised.value)
        assert str(store.receipt_path(unit.index)) in str(raised.value)
    assert [one.shard for one in quarantine.read(tmp_path)] == [outcome.unit.index for outcome in lost]

    (tmp_path / "again").mkdir()
    healed = ShardWriter(store.folder, tmp_path / "again")  # the next start tries them again
    assert all(outcome.error is None for outcome in run(cluster, healed, workers=1))
    quarantine.settle(tmp_path, {"bert": store}, [], num_units=len(poison))
    assert quarantine.read(tmp_path) == []
    note(
        "a poisonous unit neither stalls nor loops",
        f"crash, raise, hang, no memory: attempts {sorted(tried.values())}, {len(plan) - len(poison)} others done",
    )


def test_a_stuck_worker_is_seen(cluster: Cluster, tmp_path: Path, note: Note) -> None:
    """A stopped process cannot even be asked to leave; what it says when it wakes is nobody's answer."""
    deadline, late = 5.0, []
    for trial in range(size(1, 5)):
        folder = tmp_path / str(trial)
        plan = units(texts=4, per_shard=1)
        expected = undisturbed(folder / "expected", plan)
        store = make_store(folder / "store", REQUEST, plan=plan)
        writer = ShardWriter(store.folder, folder / "notes", trouble={3: "stop once"})
        outcomes = run(cluster, writer, workers=2, deadline_seconds=deadline)

        assert sorted(outcome.unit.index for outcome in outcomes) == list(range(len(plan)))
        assert all(outcome.error is None for outcome in outcomes)
        (stuck, first), (_, second) = attempts(writer.notes, 3)
        late.append(second - first - deadline)
        Store.open(store.folder).finish()
        with suppress(ProcessLookupError):  # if it was not killed, it wakes now, writes and answers
            os.kill(stuck, signal.SIGCONT)
        for _ in range(100):
            if not psutil.pid_exists(stuck) or psutil.Process(stuck).status() == psutil.STATUS_ZOMBIE:
                break
            time.sleep(0.1)
        else:
            pytest.fail("the stopped process lives on")
        make_store(folder / "store", REQUEST, plan=plan)  # clears away
        assert contents(folder / "store") == expected
    assert max(late) < (5.0 if IS_LONG else 60.0)
    note("a stuck worker is seen", f"{len(late)} stops, reassigned at most {max(late):.1f} s after the deadline")


def test_the_driver_does_not_grow_with_the_corpus(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    in_flight: dict[object, int] = {}
    most = [0]
    call, reply = RayActors.call, RayActors.reply
    owners: dict[object, object] = {}

    def counting_call(self: object, actor: object, method: str, argument: object) -> object:
        ref = call(self, actor, method, argument)  # type: ignore[arg-type]
        if method == "run":
            owners[ref] = actor
            in_flight[actor] = in_flight.get(actor, 0) + 1
            most[0] = max(most[0], in_flight[actor])
        return ref

    def counting_reply(self: object, ref: object) -> object:
        if ref in owners:
            in_flight[owners.pop(ref)] -= 1
        return reply(self, ref)  # type: ignore[arg-type]

    monkeypatch.setattr(RayActors, "call", counting_call)
    monkeypatch.setattr(RayActors, "reply", counting_reply)
    me, used = psutil.Process(), []
    for texts in (size(30, 300), size(300, 3000)):
        plan = units(texts=texts, per_shard=2)
        outcomes = cluster.run_units(
            Echo,
            plan,
            need=Need(1.0),
            workers=2,
            deadline_seconds=120.0,
            max_attempts=3,
            label=str,
        )
        assert sum(outcome.result is not None for outcome in outcomes) == len(plan)
        used.append(me.memory_info().rss)
    grown = (used[1] - used[0]) / 2**20
    assert grown <= 50
    assert most == [2]
    note("bounded memory", f"ten times the units: driver grew {max(0.0, grown):.1f} MB, {most[0]} in flight per actor")


class Echo:
    """Answers with a receipt's worth of data, slowly enough for a line to form."""

    def run(self, unit: Unit) -> bytes:
        time.sleep(0.001)
        return np.random.default_rng(unit.index).bytes(2_000)


@pytest.mark.parametrize("workers", range(1, 5) if IS_LONG else [2])
def test_the_store_does_not_depend_on_the_number_of_workers(
    cluster: Cluster, tmp_path: Path, note: Note, workers: int
) -> None:
    """Nor on one that dies in the middle."""
    plan = units(texts=8, per_shard=1)
    expected = undisturbed(tmp_path / "expected", plan)
    store = make_store(tmp_path / "store", REQUEST, plan=plan)
    run(cluster, ShardWriter(store.folder, tmp_path / "notes", trouble={7: "crash once"}), workers=workers)
    store.finish()
    assert contents(tmp_path / "store") == expected
    note("the order of batches does not depend on workers", f"{workers} writers, one lost: the same bytes")
