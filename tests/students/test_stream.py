"""The stream of a student over epochs and resumes, and the thread that reads ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest

from orchestrator.errors import StoreError
from orchestrator.records import Int64
from orchestrator.students.batches import Batch, BatchReader
from orchestrator.students.rows import RowIndex, epoch_batches
from orchestrator.students.stream import Step, StreamSpec, StudentStream, steps_ahead


class FakeReader:
    """Gives the row numbers themselves as the batch."""

    def __init__(self, num_rows: int) -> None:
        zeros = np.zeros(num_rows, np.int64)
        lengths = (4 + np.arange(num_rows) % 5).astype(np.int32)
        self.rows = RowIndex(zeros.astype(np.int32), zeros, lengths, zeros, zeros.astype(np.int32))

    def batch(self, rows: Int64) -> Int64:
        return rows


def make_stream(
    *, student: str = "s", accumulation: int = 1, rows: dict[str, int] | None = None, cursor: object = None
) -> StudentStream:
    sizes = rows or {"aa": 23, "bb": 11}
    readers = {language: cast(BatchReader, FakeReader(size)) for language, size in sizes.items()}
    shares = {language: size / sum(sizes.values()) for language, size in sizes.items()}
    spec = StreamSpec(student=student, seed=1, tokens_per_batch=16, accumulation=accumulation, shares=shares)
    return StudentStream(spec, readers, cursor=cursor)  # type: ignore[arg-type]


def read(stream: StudentStream, first: int, last: int) -> list[list[list[int]]]:
    """Row numbers: steps of micro-batches."""
    return [[list(cast(Int64, batch)) for batch in stream.step(step)] for step in range(first, last + 1)]


def test_epochs_follow_each_other_and_each_reads_every_row_once() -> None:
    stream = make_stream(rows={"aa": 23})
    spec = stream.spec
    rows = stream.readers["aa"].rows
    expected = [
        list(batch)
        for epoch in range(3)
        for batch in epoch_batches(rows, tokens_per_batch=16, seed=1, student="s", language="aa", epoch=epoch)
    ]
    found = [step[0] for step in read(stream, 1, len(expected))]
    assert found == expected
    assert sorted(row for batch in found for row in batch) == sorted([*range(23)] * 3)
    assert stream.cursor["aa"][0] == 2
    assert spec.accumulation == 1


@pytest.mark.parametrize("stop_after", [0, 1, 7, 8, 30])
def test_a_stream_goes_on_from_its_cursor(stop_after: int) -> None:
    whole = read(make_stream(accumulation=2), 1, 40)
    first = make_stream(accumulation=2)
    read(first, 1, stop_after)
    assert read(make_stream(accumulation=2, cursor=first.cursor), stop_after + 1, 40) == whole[stop_after:]


def test_each_micro_batch_is_of_one_language_by_the_draw() -> None:
    steps = read(make_stream(accumulation=3), 1, 50)
    assert all(len(step) == 3 for step in steps)
    cursor = make_stream().cursor
    assert cursor == {"aa": (0, 0), "bb": (0, 0)}


def collect(streams: dict[str, StudentStream], first: int, last: int) -> list[Step[list[int]]]:
    return list(steps_ahead(streams, first_step=first, last_step=last, prepare=rows_of))


def rows_of(name: str, batch: Batch) -> list[int]:
    return list(cast(Int64, batch))


def test_reading_ahead_changes_nothing_and_says_where_each_stream_stands() -> None:
    plain = make_stream(accumulation=2)
    expected = read(plain, 1, 12)
    steps = collect({"s": make_stream(accumulation=2)}, 1, 12)
    assert [step.number for step in steps] == list(range(1, 13))
    assert [step.batches["s"] for step in steps] == expected
    assert steps[-1].cursors == {"s": plain.cursor}
    halfway = make_stream(accumulation=2, cursor=steps[4].cursors["s"])
    assert [step.batches["s"] for step in collect({"s": halfway}, 6, 12)] == expected[5:]


def test_adding_a_student_changes_no_other_students_batches() -> None:
    alone = collect({"s": make_stream()}, 1, 10)
    together = collect({"t": make_stream(student="t"), "s": make_stream()}, 1, 10)
    assert [step.batches["s"] for step in alone] == [step.batches["s"] for step in together]
    assert [step.batches["t"] for step in together] != [step.batches["s"] for step in together]


def test_the_thread_stays_at_most_so_many_steps_in_front() -> None:
    begun: list[int] = []

    class Counting(StudentStream):
        def step(self, step: int) -> list[Batch]:
            begun.append(step)
            return super().step(step)

    plain = make_stream()
    steps = steps_ahead(
        {"s": Counting(plain.spec, plain.readers)}, first_step=1, last_step=100, prepare=rows_of, ahead=2
    )
    next(steps)
    deadline = time.monotonic() + 5
    while len(begun) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.15)
    assert begun == [1, 2, 3, 4]  # one taken, two ready, one in hand
    steps.close()
    assert not threads_named_batches()


def threads_named_batches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.mark.parametrize("error", [StoreError("shard 3 is damaged"), KeyboardInterrupt()])
def test_what_the_reader_raises_is_raised_here_after_the_steps_before_it(error: BaseException) -> None:
    class Failing(StudentStream):
        def step(self, step: int) -> list[Batch]:
            if step == 4:
                raise error
            return super().step(step)

    plain = make_stream()
    failing = {"s": Failing(plain.spec, plain.readers)}
    steps: Iterator[Step[list[int]]] = steps_ahead(failing, first_step=1, last_step=9, prepare=rows_of)
    assert [next(steps).number for _ in range(3)] == [1, 2, 3]
    with pytest.raises(type(error)):
        next(steps)
    assert not threads_named_batches()


def test_there_is_nothing_to_read_when_the_last_step_is_behind() -> None:
    assert collect({"s": make_stream()}, 8, 7) == []
    assert not threads_named_batches()
