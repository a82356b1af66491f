"""The stream of a student over epochs and resumes, and the thread that reads ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import pytest

from orchestrator.errors import StoreError
from orchestrator.records import Int64, Tables
from orchestrator.students import rows as rows_module
from orchestrator.students.batches import Batch, BatchReader
from orchestrator.students.job import Seat
from orchestrator.students.rows import Window, epoch_windows, index_rows, window_batches
from orchestrator.students.source import UnitSize
from orchestrator.students.stream import Cursor, ReadBatch, Step, StreamSpec, StudentStream, steps_ahead

UNIT_ROWS = 4


class FakeAsked:
    """A unit of `UNIT_ROWS` rows or fewer, whose number and rows decide their lengths."""

    def __init__(self, unit: int, num_rows: int) -> None:
        self.unit, self.num_rows = unit, num_rows

    def tables(self) -> Tables:
        zeros = np.zeros(self.num_rows, np.int64)
        names = ("row_id", "first_token", "first_masked", "num_masked")
        lengths = 4 + (np.arange(self.num_rows) + self.unit) % 5
        return {"texts": dict.fromkeys(names, zeros) | {"num_tokens": lengths}}


class FakeReader:
    """Gives (unit, row of it) as numbers 100 · unit + row; notes what is asked for."""

    def __init__(self, language: str, num_rows: int) -> None:
        self.language = language
        counts = [min(UNIT_ROWS, num_rows - first) for first in range(0, num_rows, UNIT_ROWS)]
        self.sizes = [UnitSize(unit, count, 6 * count) for unit, count in enumerate(counts)]
        self.asked: list[int] = []

    def ask(self, unit: int) -> FakeAsked:
        self.asked.append(unit)
        return FakeAsked(unit, self.sizes[unit].num_rows)

    def open(self, units: Sequence[FakeAsked]) -> Window:
        shards = {asked.unit: asked.tables() for asked in units}
        return Window(index_rows(shards), shards)

    def batch(self, window: Window, rows: Int64) -> Int64:
        first = {shard: int(np.flatnonzero(window.rows.shard == shard)[0]) for shard in window.shards}
        shards = window.rows.shard[rows]
        return np.asarray([100 * int(s) + int(row) - first[int(s)] for s, row in zip(shards, rows, strict=True)])


@pytest.fixture(autouse=True)
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "WINDOW_ROWS", 2 * UNIT_ROWS)


def make_stream(
    *, student: str = "s", accumulation: int = 1, rows: dict[str, int] | None = None, cursor: Cursor | None = None
) -> StudentStream:
    sizes = rows or {"aa": 23, "bb": 11}
    readers = {language: cast(BatchReader, FakeReader(language, size)) for language, size in sizes.items()}
    shares = {language: size / sum(sizes.values()) for language, size in sizes.items()}
    spec = StreamSpec(student=student, seed=1, tokens_per_batch=16, accumulation=accumulation, shares=shares)
    return StudentStream(spec, readers, cursor=cursor)


def read(stream: StudentStream, first: int, last: int) -> list[list[list[int]]]:
    """Row numbers: steps of micro-batches."""
    return [[list(cast(Int64, batch)) for batch in stream.step(step)] for step in range(first, last + 1)]


def test_epochs_follow_each_other_and_each_reads_every_row_once() -> None:
    stream = make_stream(rows={"aa": 23})
    reader = cast(FakeReader, stream.readers["aa"])
    expected: list[list[int]] = []
    for epoch in range(3):
        windows = epoch_windows(reader.sizes, seed=1, language="aa", epoch=epoch)
        assert len(windows) == 3
        for number, units in enumerate(windows):
            window = reader.open([reader.ask(unit) for unit in units])
            lengths = window.rows.num_tokens
            usual = {"tokens_per_batch": 16, "seed": 1, "student": "s", "language": "aa"}
            batches = window_batches(lengths, epoch=epoch, window=number, **usual)  # type: ignore[arg-type]
            expected += [list(reader.batch(window, batch)) for batch in batches]
    found = [step[0] for step in read(stream, 1, len(expected))]
    assert found == expected
    every_row = [100 * size.index + row for size in reader.sizes for row in range(size.num_rows)]
    assert sorted(row for batch in found for row in batch) == sorted(every_row * 3)
    assert stream.cursor["aa"] == (3, 0, 0)


def test_one_window_ahead_is_asked_for_and_no_more() -> None:
    stream = make_stream(rows={"aa": 40})
    reader = cast(FakeReader, stream.readers["aa"])
    windows = [w for epoch in range(3) for w in epoch_windows(reader.sizes, seed=1, language="aa", epoch=epoch)]
    per_epoch = len(windows) // 3
    assert per_epoch > 3
    for step in range(1, 40):
        epoch, number, _ = stream.cursor["aa"]
        stream.step(step)
        at = epoch * per_epoch + number
        read, next_one = ([unit for window in windows[:end] for unit in window] for end in (at + 1, at + 2))
        assert reader.asked in (read, next_one)
    assert stream.cursor["aa"][0] == 1


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
    assert cursor == {"aa": (0, 0, 0), "bb": (0, 0, 0)}


def collect(streams: dict[str, StudentStream], first: int, last: int) -> list[Step[list[int]]]:
    return list(steps_ahead(streams, first_step=first, last_step=last, prepare=rows_of))


def of(name: str, steps: list[Step[list[int]]]) -> list[list[list[int]]]:
    """One student's micro-batches, step by step."""
    return [list(step.batches[name].values()) for step in steps]


def rows_of(name: str, step: int, batch: Batch) -> list[int]:
    return list(cast(Int64, batch))


def test_reading_ahead_changes_nothing_and_says_where_each_stream_stands() -> None:
    plain = make_stream(accumulation=2)
    expected = read(plain, 1, 12)
    steps = collect({"s": make_stream(accumulation=2)}, 1, 12)
    assert [step.number for step in steps] == list(range(1, 13))
    assert of("s", steps) == expected
    assert steps[-1].cursors == {"s": plain.cursor}
    halfway = make_stream(accumulation=2, cursor=steps[4].cursors["s"])
    assert of("s", collect({"s": halfway}, 6, 12)) == expected[5:]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_any_number_of_workers_reads_every_micro_batch_once_in_one_order(size: int) -> None:
    def streams(cursors: dict[str, Cursor] | None = None) -> dict[str, StudentStream]:
        own = cursors or {}
        return {name: make_stream(student=name, accumulation=2, cursor=own.get(name)) for name in ("s", "t", "u")}

    whole = collect(streams(), 1, 40)
    first = [list(steps_ahead(streams(), first_step=1, last_step=9, prepare=rows_of, seat=Seat(0, 3)))]
    assert first[0][-1].cursors == whole[8].cursors, "so that a change in mid-epoch goes on with the same order"
    shares = [
        list(
            steps_ahead(streams(whole[8].cursors), first_step=10, last_step=40, prepare=rows_of, seat=Seat(rank, size))
        )
        for rank in range(size)
    ]
    for number, expected in enumerate(whole[9:]):
        parts = [share[number] for share in shares]
        for name in ("s", "t", "u"):
            together = [item for part in parts for item in part.batches[name].items()]
            assert len(dict(together)) == len(together), "no micro-batch is read by two"
            assert dict(together) == expected.batches[name]
        loads = [sum(map(len, part.batches.values())) for part in parts]
        assert max(loads) - min(loads) <= 1
        assert all(part.cursors == expected.cursors for part in parts)


def test_adding_a_student_changes_no_other_students_batches() -> None:
    alone = collect({"s": make_stream()}, 1, 10)
    together = collect({"t": make_stream(student="t"), "s": make_stream()}, 1, 10)
    assert of("s", alone) == of("s", together)
    assert of("t", together) != of("s", together)


def test_the_thread_stays_at_most_so_many_steps_in_front() -> None:
    begun: list[int] = []

    class Counting(StudentStream):
        def turn(self, step: int) -> list[ReadBatch]:
            begun.append(step)
            return super().turn(step)

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
        def turn(self, step: int) -> list[ReadBatch]:
            if step == 4:
                raise error
            return super().turn(step)

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
