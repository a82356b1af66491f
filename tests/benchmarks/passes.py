"""One pass for many students, against students alone and against live runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

from orchestrator.cluster import InProcess, PoolPlan
from orchestrator.cluster.machines import Need
from orchestrator.records import Int32, SignalRequest
from orchestrator.students import rows
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from orchestrator.students.source import Asking
from orchestrator.teachers.answering import AnsweringWorker
from tests.benchmarks.bars import Bar
from tests.benchmarks.scene import Scene, of_size, scene

PAIR = ("de", "en")  # a student each
TEXTS, UNITS = 1200, 4  # of each language
WINDOW = 40  # rows of up to 128 tokens: a unit, of some batches; the usual 4096 would be all of this little text
EPOCHS = 3


def bars(rounds: int) -> Iterator[Bar]:
    """With a large teacher: where it is small beside the students, there is little to be saved by asking it once."""
    make = partial(of_size, 24, 1024)
    with (
        scene({"big": PAIR}, texts=TEXTS, units=UNITS, make_checkpoint=make) as here,
        mock.patch.object(rows, "WINDOW_ROWS", WINDOW),
    ):
        yield from one_pass(here, rounds)


def one_pass(here: Scene, rounds: int) -> Iterator[Bar]:
    """One-to-many against the pass and each student alone, and against live runs of each, all of them on one thread."""
    own_rows = SignalRequest()  # a live run stores no more
    here.fill("rows", own_rows)
    lengths = [
        here.store("rows", "big", own_rows).shard(unit.index)["texts"]["num_tokens"] for unit in here.units["big"]
    ]
    tokens = sum(int(own.sum()) for own in lengths)
    steps = round(EPOCHS * sum(_num_batches(here, own) for own in lengths) / len(PAIR))
    together, live, shares = [], [], []
    for number in range(rounds):
        store = f"store-{number}"
        of_pass = _seconds(lambda store=store: here.fill(store))
        jobs = here.jobs(store, "one-to-many", steps=steps, name=f"together-{number}", shared=("embedding",))
        of_group = _seconds(partial(_train, jobs))
        jobs = here.jobs(store, "one-to-many", steps=steps, name=f"alone-{number}")
        of_alone = _seconds(partial(_train, jobs))
        of_live = _seconds(partial(_train_live, here, f"live-{number}", own_rows, steps))
        together.append((of_pass + of_group) / (of_pass + of_alone))
        live.append(of_live / (of_pass + of_group))
        shares.append(of_pass / (of_pass + of_group))
    note = f"teacher 24 × 1024, {EPOCHS} epochs of {tokens:,} tokens, the pass is {statistics.median(shares):.0%} of it"
    what = f"one-to-many, {len(PAIR)} students from one pass"
    yield Bar(what, "one teacher pass + the students alone", together, "≤", 1.05, note=note)
    yield Bar(f"{len(PAIR)} separate live runs", what, live, "≥", 2.0, note=note)


def _num_batches(here: Scene, lengths: Int32) -> int:
    """Of a unit that is a window by itself."""
    tokens = here.config.training.tokens_per_batch
    return len(
        rows.window_batches(lengths, tokens_per_batch=tokens, seed=0, student="", language="", epoch=0, window=0)
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _train(jobs: list[GroupJob]) -> None:
    for job in jobs:
        if all(student.name == student.origin for student in job.group.students):  # no twin without a teacher
            train_group(job)


def _train_live(here: Scene, name: str, stored: SignalRequest, steps: int) -> None:
    """Each student by itself, beside a teacher that it asks for what it reads next, anew in each epoch."""
    for number in range(len(PAIR)):
        plan = PoolPlan(
            partial(AnsweringWorker, here.work(None)),
            size=1,
            need=Need(1.0),
            deadline_seconds=600.0,
            max_attempts=1,
            label=str,
        )
        with InProcess().pool(plan) as pool:
            asking = Asking(pool, here.request)
            jobs = here.jobs("rows", "one-to-many", steps=steps, name=name, request=stored, live=asking)
            _train(jobs[number : number + 1])
