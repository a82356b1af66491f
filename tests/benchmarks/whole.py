"""Whole pieces of work: one pass for many students, Ray against one process, two workers, the scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from shutil import rmtree
from unittest import mock

from orchestrator.cluster import Cluster, InProcess, PoolPlan
from orchestrator.cluster.machines import Need
from orchestrator.cluster.on_ray import open_cluster
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
from tests.benchmarks.scene import LANGUAGES, REQUEST, Scene, base_size, scene

STEPS = 16  # of each student
TEXTS, UNITS = 400, 8  # of each language: steps are about four epochs
WINDOW = 32  # rows held of what a live teacher said: as small a part of this little text as 4096 are of a usual one


def bars(rounds: int) -> Iterator[Bar]:
    """Every figure of whole pieces."""
    with scene({"big": LANGUAGES}, texts=TEXTS, units=UNITS, make_checkpoint=base_size) as here:
        yield from one_pass(here, rounds)
    with scene({"big": LANGUAGES}, texts=300) as here:
        yield from workers(here, rounds)
    with (
        scene({"big": LANGUAGES}, texts=50) as here,
        open_cluster(None, object_store_bytes=100 << 20, log_folder=Path(here.root), num_cpus=8) as cluster,
    ):
        yield from scheduler(cluster, rounds)


def one_pass(here: Scene, rounds: int) -> Iterator[Bar]:
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
    note = f"teacher 12 × 768, {epochs:.1f} epochs"
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


def workers(here: Scene, rounds: int) -> Iterator[Bar]:
    """The same units warm: in this process, on one Ray actor, on two."""
    units = here.units["big"]
    job = here.work("b")
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
