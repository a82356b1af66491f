"""Whole pieces of work: one pass for many students, Ray against one process, two workers, the scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import rmtree

from orchestrator.cluster.base import Cluster, InProcess
from orchestrator.cluster.machines import Need
from orchestrator.cluster.on_ray import open_cluster
from orchestrator.records import Unit
from orchestrator.signals.manifest import Receipt
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from orchestrator.teachers.worker import PrecomputeJob, TeacherWorker
from tests.benchmarks.bars import Bar
from tests.benchmarks.scene import LANGUAGES, Scene, scene

STEPS = 12
EPOCHS = 3  # of the live runs, which ask the teacher anew in each


def bars(rounds: int) -> Iterator[Bar]:
    """Every figure of whole pieces."""
    with scene({"big": LANGUAGES}, texts=300) as here:
        yield from one_pass(here)
        yield from workers(here, rounds)
    with (
        scene({"big": LANGUAGES}, texts=50) as here,
        open_cluster(None, object_store_bytes=100 << 20, log_folder=Path(here.root), num_cpus=8) as cluster,
    ):
        yield from scheduler(cluster, rounds)


def one_pass(here: Scene) -> Iterator[Bar]:
    """One-to-many against one pass and each student alone, and against as many live runs of three epochs."""
    started = time.perf_counter()
    here.fill("a")
    one_pass_seconds = time.perf_counter() - started
    together = _seconds([job for job in here.jobs("a", "one-to-many", steps=STEPS, name="together") if _listens(job)])
    alone = []
    for language in LANGUAGES:
        jobs = [job for job in here.jobs("a", "one-to-many", steps=STEPS, name=f"alone-{language}") if _listens(job)]
        alone.append(_seconds([job for job in jobs if language in str(job.group.students[0].teachers)]))
    ratio = (one_pass_seconds + together) / (one_pass_seconds + sum(alone))
    what = f"one-to-many, {len(LANGUAGES)} students from one pass"
    yield Bar(what, "one teacher pass + the students alone", [ratio], "≤", 1.05)
    live = EPOCHS * one_pass_seconds + sum(alone)
    note = f"computed: the pass {EPOCHS} times, since a live teacher answers anew in each epoch"
    yield Bar(
        f"separate live runs of {EPOCHS} epochs", what, [live / (one_pass_seconds + together)], "≥", 2.0, note=note
    )


def _listens(job: GroupJob) -> bool:
    return all(student.name == student.origin for student in job.group.students)


def _seconds(jobs: list[GroupJob]) -> float:
    started = time.perf_counter()
    for job in jobs:
        train_group(job)
    return time.perf_counter() - started


def workers(here: Scene, rounds: int) -> Iterator[Bar]:
    """The same units warm: in this process, on one Ray actor, on two."""
    units = here.units["big"]
    job = here.worker("b")._job
    with open_cluster(None, object_store_bytes=100 << 20, log_folder=here.root, num_cpus=2) as cluster:
        process, one, two = InProcess(), cluster, cluster
        taken: dict[str, list[float]] = {"process": [], "one": [], "two": []}
        for _ in range(rounds + 1):
            for name, where, count in (("process", process, 1), ("one", one, 1), ("two", two, 2)):
                taken[name].append(_precompute(here, job, units, where, count))
    process_seconds, one_seconds, two_seconds = (seconds[1:] for seconds in taken.values())
    ratio = [a / b for a, b in zip(one_seconds, process_seconds, strict=True)]
    yield Bar("precompute on a Ray actor, first to last unit", "in one process, same units", ratio, "≤", 1.10)
    speed = [a / b for a, b in zip(one_seconds, two_seconds, strict=True)]
    yield Bar("two teacher actors on two cores", "one", speed, "≥", 1.8)


def _precompute(here: Scene, job: PrecomputeJob, units: list[Unit], cluster: Cluster, count: int) -> float:
    """Seconds from the first unit's end to the last's, per unit, so that no start of a process is among them."""
    for teacher in here.units:
        rmtree(here.root / "b" / teacher)
        here.store("b", teacher)
    ends = []
    outcomes = cluster.run_units(
        partial(_Warm, job, units),
        list(range(3 * count)),
        need=Need(1.0),
        workers=count,
        deadline_seconds=600.0,
        max_attempts=1,
        label=str,
    )
    for outcome in outcomes:
        assert outcome.error is None, outcome.error
        ends.append(time.perf_counter())
    ends.sort()
    return (ends[-1] - ends[count - 1]) / (len(ends) - count)


class _Warm:
    """Does all units of a teacher at each call, anew."""

    def __init__(self, job: PrecomputeJob, units: list[Unit]) -> None:
        self._worker, self._units = TeacherWorker(job), units

    def run(self, number: int, /) -> int:
        found: list[Receipt] = []
        for unit in self._units:
            store = self._worker._stores.get(unit.teacher)
            if store is not None:
                store.receipt_path(unit.index).unlink(missing_ok=True)
            found.append(self._worker.run(unit))
        return sum(receipt.num_tokens for receipt in found)


class _Sleeper:
    def run(self, unit: int, /) -> int:
        time.sleep(0.05)
        return unit


def scheduler(cluster: Cluster, rounds: int) -> Iterator[Bar]:
    """Eight fake teachers whose units sleep for 50 ms."""
    count, speed = 8, []
    for _ in range(rounds):
        ends = []
        for _ in cluster.run_units(
            _Sleeper,
            list(range(60 * count)),
            need=Need(1.0),
            workers=count,
            deadline_seconds=60.0,
            max_attempts=1,
            label=str,
        ):
            ends.append(time.perf_counter())
        middle = ends[10 * count : -10 * count]  # all of them at work
        speed.append((len(middle) - 1) * 0.05 / (middle[-1] - middle[0]) / count)
    yield Bar("scheduler, 8 sleeping teachers of 50 ms units", "8 × one", speed, "≥", 0.95)
