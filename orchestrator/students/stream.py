"""The batches of a student, step after step: languages drawn, windows and epochs turned, the next ones made ready."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from orchestrator.records import Int64
from orchestrator.students.batch import Batch
from orchestrator.students.batches import BatchReader
from orchestrator.students.job import ALONE, Seat
from orchestrator.students.rows import Window, epoch_windows, language_draws, window_batches
from orchestrator.students.sentences import SentenceStream
from orchestrator.students.source import Asked

#: Where the reading of a language stands: epoch, window in it, index of the next batch in that.
Place: TypeAlias = tuple[int, int, int]
#: language -> its place
Cursor: TypeAlias = dict[str, Place]
#: Reads a batch when it is called.
ReadBatch: TypeAlias = Callable[[], Batch]
#: What becomes of a batch before training sees it.
Ready = TypeVar("Ready")

#: How soon a thread that has nowhere to put a step sees that it is to stop.
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class StreamSpec:
    """What decides a student's batches besides its rows: the same values give the same batches."""

    student: str
    seed: int
    tokens_per_batch: int
    accumulation: int
    shares: dict[str, float]


class StudentStream:
    """The micro-batches of each step of one student. The cursor is all its state, and is kept in checkpoints."""

    def __init__(
        self,
        spec: StreamSpec,
        readers: Mapping[str, BatchReader],
        *,
        sentences: Sequence[SentenceStream] = (),
        cursor: Cursor | None = None,
    ) -> None:
        """`readers`: language -> its reader; `sentences`: of parallel text; `cursor`: where to go on, None at first."""
        self.spec, self.readers, self.sentences = spec, readers, sentences
        places = cursor or dict.fromkeys(readers, (0, 0, 0))
        self._languages = {language: _Reading(spec, reader, places[language]) for language, reader in readers.items()}

    @property
    def cursor(self) -> Cursor:
        """Where the reading of each language stands, and of each parallel text."""
        places = {language: reading.place for language, reading in self._languages.items()}
        return places | {name: place for stream in self.sentences for name, place in stream.places.items()}

    def turn(self, step: int) -> list[ReadBatch]:
        """The micro-batches of a step, not yet read: `accumulation` of one language each, then sentences.

        Moves the cursor, whichever of them are read; each is to be read before the next turn.
        """
        for reading in self._languages.values():
            reading.ask_ahead()
        spec = self.spec
        draws = language_draws(spec.shares, seed=spec.seed, student=spec.student, step=step, count=spec.accumulation)
        masked = [self._languages[language].turn() for language in draws]
        return masked + [read for stream in self.sentences for read in stream.turn(step)]

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of a step, all of them."""
        return [read() for read in self.turn(step)]


@dataclass(frozen=True)
class _Opened:
    """The window that is read."""

    at: tuple[int, int]  # epoch, number in it
    asked: list[Asked]  # held on to, so that who wants the same units gets these
    window: Window
    batches: list[Int64]


class _Reading:
    """One language of a student: the window that is read, and the one after it, which is asked for meanwhile.

    No more than these two are held, and nothing more is asked for until the next one is begun.
    """

    def __init__(self, spec: StreamSpec, reader: BatchReader, place: Place) -> None:
        self._spec, self._reader, self.place = spec, reader, place
        self._now: _Opened | None = None
        self._next: tuple[tuple[int, int], list[Asked]] | None = None

    def ask_ahead(self) -> None:
        """Ask for the window after the one that is read, or for the first."""
        if self._next is None:
            at = self.place[:2] if self._now is None else self._after(self._now.at)
            self._next = (at, [self._reader.ask(unit) for unit in self._windows(at[0])[at[1]]])

    def turn(self) -> ReadBatch:
        """The next batch; moves the place."""
        at, index = self.place[:2], self.place[2]
        now = self._open(at)
        is_last = index + 1 == len(now.batches)
        self.place = (*self._after(at), 0) if is_last else (*at, index + 1)
        return partial(self._reader.batch, now.window, now.batches[index])

    def _open(self, at: tuple[int, int]) -> _Opened:
        if self._now is None or self._now.at != at:
            self.ask_ahead()
            assert self._next is not None
            assert self._next[0] == at
            asked = self._next[1]
            window = self._reader.open(asked)
            batches = window_batches(
                window.rows.num_tokens,
                tokens_per_batch=self._spec.tokens_per_batch,
                seed=self._spec.seed,
                student=self._spec.student,
                language=self._reader.language,
                epoch=at[0],
                window=at[1],
            )
            self._now, self._next = _Opened(at, asked, window, batches), None
        return self._now

    def _windows(self, epoch: int) -> list[tuple[int, ...]]:
        language = self._reader.language
        return epoch_windows(self._reader.sizes, seed=self._spec.seed, language=language, epoch=epoch)

    def _after(self, at: tuple[int, int]) -> tuple[int, int]:
        epoch, number = at
        return (epoch, number + 1) if number + 1 < len(self._windows(epoch)) else (epoch + 1, 0)


@dataclass(frozen=True)
class Step(Generic[Ready]):
    """The micro-batches of one step of a group that this worker takes, and every stream's cursor after it."""

    number: int
    batches: dict[str, dict[int, Ready]]  # student -> number among its micro-batches of the step -> micro-batch
    cursors: dict[str, Cursor]


def steps_ahead(
    streams: Mapping[str, StudentStream],
    *,
    first_step: int,
    last_step: int,
    prepare: Callable[[str, int, Batch], Ready],
    seat: Seat = ALONE,
    ahead: int = 2,
) -> Generator[Step[Ready], None, None]:
    """Steps `first_step` … `last_step` in order, read by a thread that stays at most `ahead` steps in front.

    The micro-batches of a step, counted through all students, go to the workers in turn; those of `seat` are read.

    The streams belong to that thread until the iterator ends. `prepare` is handed the student's name, the step and a
    batch in the thread, to do there what the training should not wait for. What the thread raises is raised here;
    closing the iterator stops the thread.
    """
    # simple ones, which a stop in the middle does not break: full steps one way, room for them the other
    ready: queue.SimpleQueue[Step[Ready] | BaseException] = queue.SimpleQueue()
    room: queue.SimpleQueue[None] = queue.SimpleQueue()
    stop = threading.Event()
    for _ in range(ahead):
        room.put(None)

    def hand_over(item: Step[Ready] | BaseException) -> None:
        while not stop.is_set():
            with suppress(queue.Empty):
                room.get(timeout=_POLL_SECONDS)
                ready.put(item)
                break

    def read() -> None:
        try:
            for number in range(first_step, last_step + 1):
                turns = itertools.count(number)
                batches = {
                    name: {
                        index: prepare(name, number, read())
                        for index, read in enumerate(stream.turn(number))
                        if next(turns) % seat.size == seat.rank
                    }
                    for name, stream in streams.items()
                }
                hand_over(Step(number, batches, {name: stream.cursor for name, stream in streams.items()}))
                if stop.is_set():
                    break
        except BaseException as error:  # also what is no Exception, or the other side would wait for ever
            hand_over(error)

    thread = threading.Thread(target=read, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(first_step, last_step + 1):
            item = ready.get()
            room.put(None)
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
