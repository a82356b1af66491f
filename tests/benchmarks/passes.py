"""One pass for many students, against students alone and against live runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

from orchestrator.cluster import InProcess, PoolPlan
from orchestrator.cluster.machines import Need
from orchestrator.records import SignalRequest
from orchestrator.students import rows
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from orchestrator.students.source import Asking
from orchestrator.teachers.answering import AnsweringWorker
from tests.benchmarks.bars import Bar
from tests.benchmarks.scene import LANGUAGES, REQUEST, Scene, of_size, scene

STEPS = 8  # of each student
TEXTS, UNITS = 200, 8  # of each language: steps are about four epochs
WINDOW = 16  # rows held of what a live teacher said: as small a part of this little text as 4096 are of a usual one


def bars(rounds: int) -> Iterator[Bar]:
    """With a teacher of base size and a large one: how much of the whole is the teacher's decides what a pass saves."""
    for layers, width in ((12, 768), (24, 1024)):
        make = partial(of_size, layers, width)
        with scene({"big": LANGUAGES}, texts=TEXTS, units=UNITS, make_checkpoint=make) as here:
            yield from one_pass(here, rounds, teacher=f"teacher {layers} × {width}")


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
