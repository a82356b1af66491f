"""Units of work on processes: Ray against one process, two teachers and two students at once, the scheduler."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import torch

from orchestrator.cluster import Cluster, InProcess
from orchestrator.cluster.machines import Need
from orchestrator.cluster.on_ray import open_cluster
from orchestrator.cluster.units import Worker
from orchestrator.records import Unit
from orchestrator.signals.store import Store
from orchestrator.students.job import GroupJob
from orchestrator.teachers.worker import PrecomputeJob, TeacherWorker
from tests.benchmarks.bars import Bar
from tests.benchmarks.pairs import ratios
from tests.benchmarks.scene import LANGUAGES, Scene, scene
from tests.benchmarks.step import Training

STEPS = 8  # at a time


def bars(rounds: int) -> Iterator[Bar]:
    """Each on a Ray of its own, with room for as many as are at work."""
    with (
        scene({"big": LANGUAGES}, texts=300) as here,
        open_cluster(None, object_store_bytes=100 << 20, log_folder=here.root, num_cpus=2) as cluster,
    ):
        yield from teachers(here, cluster, rounds)
        yield from students(here, cluster, rounds)
    with (
        TemporaryDirectory() as folder,
        open_cluster(None, object_store_bytes=100 << 20, log_folder=Path(folder), num_cpus=8) as cluster,
    ):
        yield from scheduler(cluster, rounds)


def teachers(here: Scene, cluster: Cluster, rounds: int) -> Iterator[Bar]:
    """The same units warm: in this process, on one Ray actor, on two."""

    def seconds(where: Cluster, count: int) -> float:
        rmtree(here.root / "b", ignore_errors=True)
        return _seconds_each(where, partial(Precomputes, here.work("b"), here.units["big"]), count)

    rows = [(seconds(InProcess(), 1), seconds(cluster, 1), seconds(cluster, 2)) for _ in range(rounds + 1)]
    process, one, two = zip(*rows[1:], strict=True)
    what, against = "precompute on a Ray actor, first to last unit", "in one process, same units"
    yield Bar(what, against, ratios(one, process), "≤", 1.10)
    yield Bar("two teacher actors on two cores", "one", ratios(one, two), "≥", 1.8)


def students(here: Scene, cluster: Cluster, rounds: int) -> Iterator[Bar]:
    """Students that share nothing, each on a core: one, and two at once."""
    here.fill("students")
    make = partial(_Trains, here.jobs("students", "one-to-many")[0])
    rows = [(_seconds_each(cluster, make, 1), _seconds_each(cluster, make, 2)) for _ in range(rounds + 1)]
    one, two = zip(*rows[1:], strict=True)
    yield Bar("two students side by side", "one", ratios(one, two), "≥", 1.8)


def _seconds_each(cluster: Cluster, make_worker: Callable[[], Worker[int, int]], count: int) -> float:
    """Seconds per unit of `count` workers that return who they are, while all are at work and none of them starts."""
    ends: dict[int, list[float]] = defaultdict(list)
    for result, end in timed(cluster, make_worker, 4 * count, count):
        ends[result].append(end)
    first, last = max(own[0] for own in ends.values()), min(own[-1] for own in ends.values())
    together = [[end for end in own if first <= end <= last] for own in ends.values()]
    return 1 / sum((len(own) - 1) / (own[-1] - own[0]) for own in together)


def timed(
    cluster: Cluster, make_worker: Callable[[], Worker[int, int]], num_units: int, count: int
) -> Iterator[tuple[int, float]]:
    """What each unit returns, and the second in which that arrives; none may fail."""
    outcomes = cluster.run_units(
        make_worker,
        list(range(num_units)),
        need=Need(1.0),
        workers=count,
        deadline_seconds=600.0,
        max_attempts=2,
        label=str,
    )
    for outcome in outcomes:
        assert outcome.result is not None, outcome.error
        yield outcome.result, time.perf_counter()


class _Trains:
    """Takes a few steps more at each call."""

    def __init__(self, job: GroupJob) -> None:
        torch.set_num_threads(job.threads or 1)
        self._training = Training(job)

    def run(self, _number: int, /) -> int:
        self._training.step(STEPS)
        return os.getpid()


class Precomputes:
    """Does all units of a teacher at each call, anew."""

    def __init__(self, job: PrecomputeJob, units: list[Unit]) -> None:
        self._worker, self._units = TeacherWorker(job), units
        self._folders = {name: task.store for name, task in job.teachers.items() if task.store is not None}

    def run(self, _number: int, /) -> int:
        for unit in self._units:
            Store.open(self._folders[unit.teacher]).receipt_path(unit.index).unlink(missing_ok=True)
            self._worker.run(unit)
        return os.getpid()


class _Sleeper:
    def run(self, unit: int, /) -> int:
        time.sleep(0.05)
        return unit


def scheduler(cluster: Cluster, rounds: int) -> Iterator[Bar]:
    """Eight fake teachers whose units sleep for 50 ms."""
    speed = [speed_of_sleepers(cluster, 8) / 8 for _ in range(rounds)]
    yield Bar("scheduler, 8 sleeping teachers of 50 ms units", "8 × one", speed, "≥", 0.95)


def speed_of_sleepers(cluster: Cluster, count: int) -> float:
    """How many times as fast as one that sleeps 50 ms without a pause `count` fake teachers are."""
    ends = [end for _, end in timed(cluster, _Sleeper, 60 * count, count)]
    middle = ends[10 * count : -10 * count]  # all of them at work
    return (len(middle) - 1) * 0.05 / (middle[-1] - middle[0])
