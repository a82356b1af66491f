"""What students read does not depend on how many workers answer, or how fast: the same global order, each row once."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.records import SignalRequest, SpecialIds, Tables, Unit
from orchestrator.signals import Store
from orchestrator.signals.schema import ROW_TABLES
from orchestrator.storage import local as storage
from orchestrator.students import rows as rows_module
from orchestrator.students.batches import BatchReader
from orchestrator.students.ids import IdMap
from orchestrator.students.source import Asking, AskingSource
from orchestrator.students.stream import Cursor, StreamSpec, StudentStream, steps_ahead
from tests.faults.conftest import Note
from tests.faults.disks import FaultyDisk
from tests.faults.figures import SEED, size
from tests.signals.samples import LANGUAGES, VOCAB_SIZE, hidden, make_store, make_tables, units
from tests.students.test_source import text_alone

REQUEST = SignalRequest(states=hidden(3))
TEXTS_PER_UNIT = 3


class Answer:
    """An answer that counts as held until nobody has it."""

    def __init__(self, future: Future[Tables]) -> None:
        self._future = future

    def result(self) -> Tables:
        return self._future.result()


class Workers:
    """So many threads answer, each unit after a random while; counts answers that somebody holds."""

    def __init__(self, store: Store, pool: ThreadPoolExecutor, seed: int) -> None:
        self._store, self._pool, self._random = store, pool, random.Random(seed)
        self._lock, self._held, self.most_held = threading.Lock(), 0, 0

    def submit(self, unit: Unit) -> Answer:
        answer = Answer(self._pool.submit(self._answer, unit, self._random.random() * 0.01))
        with self._lock:
            self._held += 1
            self.most_held = max(self.most_held, self._held)
        weakref.finalize(answer, self._let_go)
        return answer

    def _let_go(self) -> None:
        self._held -= 1

    def _answer(self, unit: Unit, seconds: float) -> Tables:
        time.sleep(seconds)
        return {name: table for name, table in self._store.shard(unit.index).items() if name not in ROW_TABLES}


@pytest.fixture(autouse=True)
def _short_windows_and_a_quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "WINDOW_ROWS", 12)
    monkeypatch.setattr(storage, "disk", FaultyDisk())  # no real fsync


def make(folder: Path, texts: int) -> Store:
    plan = units(texts=texts, per_shard=TEXTS_PER_UNIT)
    store = make_store(folder, REQUEST, "fp16", plan=plan)
    for unit in plan:
        store.write(unit, make_tables(unit, REQUEST, "fp16"))
    return store


def read(
    store: Store, workers: Workers, first: int, last: int, cursor: Cursor | None
) -> Iterator[tuple[object, Cursor]]:
    """What each step reads, in full, and where the stream stands after it."""
    source = AskingSource(text_alone(store), Asking(workers, store.request))
    special = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    ids = IdMap(np.arange(VOCAB_SIZE, dtype=np.int32), student_special=special, student_size=VOCAB_SIZE, teacher_mask=4)
    readers = {language: BatchReader(source, language, ids=ids, request=REQUEST) for language in LANGUAGES}
    spec = StreamSpec("s", SEED, tokens_per_batch=100, accumulation=2, shares=dict.fromkeys(LANGUAGES, 0.5))
    stream = {"s": StudentStream(spec, readers, cursor=cursor)}

    def content(_name: str, _step: int, batch: object) -> bytes:
        return b"".join(
            tensor.numpy().tobytes()
            for tensor in (batch.input_ids, batch.labels, *batch.states.values())  # type: ignore[attr-defined]
        )

    for step in steps_ahead(stream, first_step=first, last_step=last, prepare=content):
        yield step.batches["s"], step.cursors["s"]


def test_the_order_of_batches_does_not_depend_on_workers(tmp_path: Path, note: Note) -> None:
    store, steps = make(tmp_path, texts=30), size(40, 400)
    orders: list[list[object]] = []
    for count in (1, 2, 3, 4):
        with ThreadPoolExecutor(count) as pool:
            orders.append([batches for batches, _ in read(store, Workers(store, pool, count), 1, steps, None)])
    mixed: list[object] = []
    cursor: Cursor | None = None
    changes = sorted(random.Random(SEED).sample(range(1, steps), 3))  # each of them in the middle of an epoch
    for count, first, last in zip((3, 1, 4, 2), [1, *(c + 1 for c in changes)], [*changes, steps], strict=True):
        with ThreadPoolExecutor(count) as pool:
            part = list(read(store, Workers(store, pool, count), first, last, cursor))
        mixed += [batches for batches, _ in part]
        cursor = part[-1][1]
    orders.append(mixed)
    assert all(order == orders[0] for order in orders)
    assert cursor is not None
    epochs = min(epoch for epoch, _, _ in cursor.values())
    assert epochs >= 1  # that an epoch has each row once: tests/students/test_stream.py
    note(
        "the order of batches does not depend on workers",
        f"1, 2, 3, 4 workers and changes after steps {changes}: {steps} equal steps, {epochs} epochs",
    )


def test_slow_students_hold_no_more_of_a_larger_corpus(tmp_path: Path, note: Note) -> None:
    most = []
    for texts in (24, 240):
        store = make(tmp_path / str(texts), texts)
        with ThreadPoolExecutor(3) as pool:
            workers = Workers(store, pool, SEED)
            for _ in read(store, workers, 1, size(25, 200), None):
                time.sleep(0.005)
            most.append(workers.most_held)
    assert most[1] <= 2 * len(LANGUAGES) * 3  # two windows of each language, three units each at most
    note("bounded memory", f"slow students: {most[0]} units held, {most[1]} of ten times the corpus")
