"""Whole pieces of work: one pass for many students, Ray against one process, two at once, the scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from unittest import mock

from orchestrator.cluster import Cluster, InProcess, PoolPlan
from orchestrator.cluster.machines import Need
from orchestrator.cluster.on_ray import open_cluster
from orchestrator.cluster.units import Worker
from orchestrator.records import SignalRequest, Unit
from orchestrator.signals.manifest import Receipt
from orchestrator.signals.store import Store
from orchestrator.students import rows
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from orchestrator.students.source import Asking
from orchestrator.teachers.answering import AnsweringWorker
from orchestrator.teachers.worker import PrecomputeJob, TeacherWorker
from tests.benchmarks.bars import Bar
from tests.benchmarks.pairs import ratios
from tests.benchmarks.scene import LANGUAGES, REQUEST, Scene, of_size, scene

STEPS = 16  # of each student
TEXTS, UNITS = 400, 8  # of each language: steps are about four epochs
WINDOW = 32  # rows held of what a live teacher said: as small a part of this little text as 4096 are of a usual one


def bars(rounds: int) -> Iterator[Bar]:
    """Every figure of whole pieces."""
    for layers, width in ((12, 768), (24, 1024)):
        make = partial(of_size, layers, width)
        with scene({"big": LANGUAGES}, texts=TEXTS, units=UNITS, make_checkpoint=make) as here:
            yield from one_pass(here, rounds, teacher=f"teacher {layers} × {width}")
    with (
        scene({"big": LANGUAGES}, texts=300) as here,
        open_cluster(None, object_store_bytes=100 << 20, log_folder=here.root, num_cpus=2) as cluster,
    ):
        yield from teachers(here, cluster, rounds)
        yield from students(here, cluster, rounds)
    with (
        scene({"big": LANGUAGES}, texts=50) as here,
        open_cluster(None, object_store_bytes=100 << 20, log_folder=Path(here.root), num_cpus=8) as cluster,
    ):
        yield from scheduler(cluster, rounds)


def one_pass(here: Scene, rounds: int, *, teacher: str) -> Iterator[Bar]:
    """One-to-many against the pass and each student alone, and against live runs of each, all of them on one thread."""
    own_rows = SignalRequest()  # a live run stores no more
    here.fill("rows", own_rows)
    here.fill("warm")
    _train(here.jobs("warm", "one-to-many", steps=2, name="warm"))
    together, live = [], []
    for number in range(rounds):
        store = f"store-{number}"
        of_pass = _seconds(lambda store=store: here.fill(store))
        jobs = here.jobs(store, "one-to-many", steps=STEPS, name=f"together-{number}", shared=("embedding",))
        of_group = _seconds(partial(_train, jobs))
        jobs = here.jobs(store, "one-to-many", steps=STEPS, name=f"alone-{number}")
        of_alone = _seconds(partial(_train, jobs))
        of_live = _seconds(partial(_train_live, here, f"live-{number}", own_rows))
        together.append((of_pass + of_group) / (of_pass + of_alone))
        live.append(of_live / (of_pass + of_group))
    tokens = sum(
        receipt.num_tokens
        for unit in here.units["big"]
        if (receipt := here.store("rows", "big", own_rows).receipt(unit.index)) is not None
    )
    epochs = STEPS * here.config.training.tokens_per_batch * len(LANGUAGES) / tokens
    note = f"{teacher}, {epochs:.1f} epochs"
    what = f"one-to-many, {len(LANGUAGES)} students from one pass"
    yield Bar(what, "one teacher pass + the students alone", together, "≤", 1.05, note=note)
    yield Bar(f"{len(LANGUAGES)} separate live runs", what, live, "≥", 2.0, note=note)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _train(jobs: list[GroupJob]) -> None:
    for job in jobs:
        if all(student.name == student.origin for student in job.group.students):  # no twin without a teacher
            train_group(job)


def _train_live(here: Scene, name: str, stored: SignalRequest) -> None:
    """Each student by itself, beside a teacher that it asks for what it reads next, anew in each epoch."""
    for number in range(len(LANGUAGES)):
        plan = PoolPlan(
            partial(AnsweringWorker, here.work(None)),
            size=1,
            need=Need(1.0),
            deadline_seconds=600.0,
            max_attempts=1,
            label=str,
        )
        with mock.patch.object(rows, "WINDOW_ROWS", WINDOW), InProcess().pool(plan) as pool:
            asking = Asking(pool, REQUEST)
            jobs = here.jobs("rows", "one-to-many", steps=STEPS, name=name, request=stored, live=asking)
            _train(jobs[number : number + 1])


def teachers(here: Scene, cluster: Cluster, rounds: int) -> Iterator[Bar]:
    """The same units warm: in this process, on one Ray actor, on two."""

    def seconds(where: Cluster, count: int) -> float:
        rmtree(here.root / "b", ignore_errors=True)
        return _seconds_each(where, partial(_Precomputes, here.work("b"), here.units["big"]), count)

    rows = [(seconds(InProcess(), 1), seconds(cluster, 1), seconds(cluster, 2)) for _ in range(rounds + 1)]
    process, one, two = zip(*rows[1:], strict=True)
    what, against = "precompute on a Ray actor, first to last unit", "in one process, same units"
    yield Bar(what, against, ratios(one, process), "≤", 1.10)
    yield Bar("two teacher actors on two cores", "one", ratios(one, two), "≥", 1.8)


def students(here: Scene, cluster: Cluster, rounds: int) -> Iterator[Bar]:
    """Students that share nothing, from reading the store to the export: one, and two at once."""
    here.fill("students")
    make = partial(_Trains, here.jobs("students", "one-to-many", steps=STEPS // 2)[0])
    rows = [(_seconds_each(cluster, make, 1), _seconds_each(cluster, make, 2)) for _ in range(rounds + 1)]
    one, two = zip(*rows[1:], strict=True)
    yield Bar("two students side by side", "one", ratios(one, two), "≥", 1.8)


def _seconds_each(cluster: Cluster, make_worker: Callable[[], Worker[int, object]], count: int) -> float:
    """Seconds from the first end of each of `count` workers to the last, per unit: no start of a process is in them."""
    ends = []
    outcomes = cluster.run_units(
        make_worker,
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
    return (ends[-1] - ends[count - 1]) / (len(ends) - count)


class _Trains:
    """Trains a student anew at each call."""

    def __init__(self, job: GroupJob) -> None:
        self._job = job

    def run(self, _number: int, /) -> None:
        with TemporaryDirectory() as folder:
            train_group(replace(self._job, root=Path(folder)))


class _Precomputes:
    """Does all units of a teacher at each call, anew."""

    def __init__(self, job: PrecomputeJob, units: list[Unit]) -> None:
        self._worker, self._units = TeacherWorker(job), units
        self._folders = {name: task.store for name, task in job.teachers.items() if task.store is not None}

    def run(self, number: int, /) -> int:
        found: list[Receipt] = []
        for unit in self._units:
            Store.open(self._folders[unit.teacher]).receipt_path(unit.index).unlink(missing_ok=True)
            found.append(self._worker.run(unit))
        return sum(receipt.num_tokens for receipt in found)


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
    outcomes = cluster.run_units(
        _Sleeper,
        list(range(60 * count)),
        need=Need(1.0),
        workers=count,
        deadline_seconds=60.0,
        max_attempts=1,
        label=str,
    )
    ends = [time.perf_counter() for _ in outcomes]
    middle = ends[10 * count : -10 * count]  # all of them at work
    return (len(middle) - 1) * 0.05 / (middle[-1] - middle[0])
