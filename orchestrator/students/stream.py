"""The batches of a student, step after step: languages drawn, epochs turned, the next steps made ready in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from orchestrator.records import Int64
from orchestrator.students.batches import Batch, BatchReader
from orchestrator.students.rows import epoch_batches, language_draws

#: language -> (epoch, index of the next batch in it)
Cursor: TypeAlias = dict[str, tuple[int, int]]
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

    def __init__(self, spec: StreamSpec, readers: Mapping[str, BatchReader], *, cursor: Cursor | None = None) -> None:
        """`readers`: language -> its reader; `cursor`: where to go on, None at the start."""
        self.spec, self.readers = spec, readers
        self.cursor: Cursor = dict(cursor) if cursor else dict.fromkeys(readers, (0, 0))
        self._epochs: dict[str, tuple[int, list[Int64]]] = {}

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row of any language."""
        return max(int(reader.rows.num_tokens.max()) for reader in self.readers.values())

    def step(self, step: int) -> list[Batch]:
        """The `accumulation` micro-batches of a step, each of one language; moves the cursor."""
        spec = self.spec
        draws = language_draws(spec.shares, seed=spec.seed, student=spec.student, step=step, count=spec.accumulation)
        return [self._next(language) for language in draws]

    def _next(self, language: str) -> Batch:
        epoch, index = self.cursor[language]
        batches = self._epoch(language, epoch)
        if index >= len(batches):
            epoch, index = epoch + 1, 0
            batches = self._epoch(language, epoch)
        self.cursor[language] = (epoch, index + 1)
        return self.readers[language].batch(batches[index])

    def _epoch(self, language: str, epoch: int) -> list[Int64]:
        cached = self._epochs.get(language)
        if cached is None or cached[0] != epoch:
            batches = epoch_batches(
                self.readers[language].rows,
                tokens_per_batch=self.spec.tokens_per_batch,
                seed=self.spec.seed,
                student=self.spec.student,
                language=language,
                epoch=epoch,
            )
            cached = (epoch, batches)
            self._epochs[language] = cached
        return cached[1]


@dataclass(frozen=True)
class Step(Generic[Ready]):
    """All micro-batches of one step of a group, and every stream's cursor after it."""

    number: int
    batches: dict[str, list[Ready]]  # student -> its micro-batches
    cursors: dict[str, Cursor]


def steps_ahead(
    streams: Mapping[str, StudentStream],
    *,
    first_step: int,
    last_step: int,
    prepare: Callable[[str, Batch], Ready],
    ahead: int = 2,
) -> Generator[Step[Ready], None, None]:
    """Steps `first_step` … `last_step` in order, read by a thread that stays at most `ahead` steps in front.

    The streams belong to that thread until the iterator ends. `prepare` is handed the student's name and a batch in the
    thread, to do there what the training should not wait for. What the thread raises is raised here; closing the
    iterator stops the thread.
    """
    ready: queue.Queue[Step[Ready] | BaseException] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def hand_over(item: Step[Ready] | BaseException) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=_POLL_SECONDS)
                break

    def read() -> None:
        try:
            for number in range(first_step, last_step + 1):
                batches = {name: [prepare(name, b) for b in stream.step(number)] for name, stream in streams.items()}
                hand_over(Step(number, batches, {name: dict(stream.cursor) for name, stream in streams.items()}))
                if stop.is_set():
                    break
        except BaseException as error:  # also what is no Exception, or the other side would wait for ever
            hand_over(error)

    thread = threading.Thread(target=read, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(first_step, last_step + 1):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
