"""Where students get what a teacher says, unit by unit: from its store, or from itself while they train.

A unit's tables are the same wherever they come from, so that students are the same too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

from orchestrator.errors import StoreError
from orchestrator.records import HiddenCodec, SignalRequest, Tables, Unit
from orchestrator.signals.store import Store
from orchestrator.storage import Place


@dataclass(frozen=True)
class UnitSize:
    """How much a unit holds; `index` is its number in the store."""

    index: int
    num_rows: int
    num_tokens: int


class Asked(Protocol):
    """The tables of a unit that were asked for; whoever holds on to it keeps them from being made twice."""

    @property
    def unit(self) -> int:
        """Its index."""

    def tables(self) -> Tables:
        """The tables, waited for; the same ones each time."""


class Source(Protocol):
    """What one teacher says, unit by unit."""

    @property
    def folder(self) -> Place:
        """The teacher's store, for messages."""

    @property
    def request(self) -> SignalRequest:
        """What the tables of each unit hold."""

    @property
    def codec(self) -> HiddenCodec:
        """How states are coded in them."""

    def sizes(self, language: str) -> list[UnitSize]:
        """The units of a language that have rows, in the order of the store; StoreError when there is none."""

    def ask(self, unit: int, tables: Collection[str]) -> Asked:
        """Ask for the named tables of a unit; returns at once."""


class StoredSource:
    """Everything was said before: the tables are maps of the files of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def folder(self) -> Place:
        """The store."""
        return self._store.folder

    @property
    def request(self) -> SignalRequest:
        """What every shard holds."""
        return self._store.request

    @property
    def codec(self) -> HiddenCodec:
        """How states are stored."""
        return self._store.codec

    def sizes(self, language: str) -> list[UnitSize]:
        """By the receipts, which say how much a shard holds."""
        sizes = []
        for unit in self._store.units:
            if unit.language == language:
                receipt = self._store.receipt(unit.index)
                if receipt is None:
                    raise StoreError(
                        f"shard {unit.index} of {self._store.folder} is not there; run `orch precompute-teacher` again"
                    )
                sizes.append(UnitSize(unit.index, receipt.num_rows, receipt.num_tokens))
        if not any(size.num_rows for size in sizes):
            raise StoreError(
                f"{self._store.folder} holds no row of language '{language}'; give it text with "
                f"corpus.languages.{language}.train"
            )
        return [size for size in sizes if size.num_rows]

    def ask(self, unit: int, tables: Collection[str]) -> Asked:
        """The maps are opened when they are wanted."""
        return StoredUnit(self._store, unit, tuple(tables))


@dataclass(frozen=True)
class StoredUnit:
    """A unit whose shard is there."""

    store: Store
    unit: int
    names: tuple[str, ...]

    def tables(self) -> Tables:
        """Read-only views of memory-mapped files, checked at first use."""
        return self.store.shard(self.unit, self.names)


class Answer(Protocol):
    """What a teacher says to a unit, once it has been waited for."""

    def result(self) -> Tables | None:
        """The tables that its store lacks; None when they are in its store now."""


class Teachers(Protocol):
    """Teachers that can be asked while students train."""

    def submit(self, unit: Unit, /) -> Answer:
        """Ask for a unit; returns at once."""


@dataclass(frozen=True)
class Asking:
    """Whom to ask, and for what."""

    teachers: Teachers
    request: SignalRequest


class AskingSource(StoredSource):
    """What the store lacks is asked of the teacher, and is held no longer than somebody holds what was asked for."""

    def __init__(self, store: Store, asking: Asking) -> None:
        super().__init__(store.widened(asking.request))
        self._teachers = asking.teachers
        self._units = {unit.index: unit for unit in store.units}
        self._answers: WeakValueDictionary[int, Answer] = WeakValueDictionary()

    def ask(self, unit: int, tables: Collection[str]) -> Asked:
        """Students that want a unit at about the same time share one answer."""
        stored = StoredUnit(self._store, unit, tuple(tables))
        if not set(tables).intersection(self._store.lacking(self._units[unit])):
            return stored
        answer = self._answers.get(unit)
        if answer is None:
            answer = self._answers[unit] = self._teachers.submit(self._units[unit])
        return AnsweredUnit(stored, answer)


@dataclass(frozen=True)
class AnsweredUnit:
    """A unit that the teacher was asked for."""

    stored: StoredUnit
    answer: Answer

    @property
    def unit(self) -> int:
        """Its index."""
        return self.stored.unit

    def tables(self) -> Tables:
        """What the teacher said, beside what is stored."""
        said = self.answer.result()
        if said is None:
            return self.stored.tables()
        rest = tuple(name for name in self.stored.names if name not in said)
        wanted = {name: said[name] for name in self.stored.names if name in said}
        return {**replace(self.stored, names=rest).tables(), **wanted}
