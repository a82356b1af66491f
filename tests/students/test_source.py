"""Where tables come from: a store, or a teacher that is asked for what the store lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.models.export import export_student
from orchestrator.records import SignalRequest, Tables, Unit
from orchestrator.signals.schema import ROW_TABLES
from orchestrator.signals.store import Store
from orchestrator.storage import hash_file
from orchestrator.students import rows as rows_module
from orchestrator.students.loop import train_group
from orchestrator.students.source import Asking, AskingSource, StoredSource, StoredUnit
from tests.students.tiny import World, make_job, student


class Answer:
    def __init__(self, tables: Tables | None) -> None:
        self.tables = tables
        self.waits = 0

    def result(self) -> Tables | None:
        self.waits += 1
        return self.tables


class Teachers:
    """Answers out of a whole store; notes every unit that it is asked for."""

    def __init__(self, store: Store, *, keeps: bool = False) -> None:
        self.store, self.keeps = store, keeps
        self.asked: list[int] = []

    def submit(self, unit: Unit) -> Answer:
        self.asked.append(unit.index)
        if self.keeps:
            return Answer(None)
        return Answer({name: table for name, table in self.store.shard(unit.index).items() if name not in ROW_TABLES})


class TextAlone(Store):
    """A store as it is before any teacher was asked, seen with all that it will be asked."""

    def lacking(self, unit: Unit) -> list[str]:
        return [name for name in self.schema if name not in ROW_TABLES]

    def widened(self, request: SignalRequest) -> TextAlone:
        return self


def text_alone(store: Store) -> TextAlone:
    return TextAlone(store.folder, store._manifest)


def state_of(store: Store) -> str:
    return next(name for name in store.schema if name not in ROW_TABLES)


def test_what_is_stored_is_never_asked_for(world: World) -> None:
    store = world.stores["mixed"]
    teachers = Teachers(store)
    source = AskingSource(store, Asking(teachers, store.request))
    assert isinstance(source.ask(0, list(store.schema)), StoredUnit)
    lacking = AskingSource(text_alone(store), Asking(teachers, store.request))
    assert isinstance(lacking.ask(0, list(ROW_TABLES)), StoredUnit)  # as a student without a teacher does
    assert teachers.asked == []
    assert lacking.sizes("aa") == StoredSource(store).sizes("aa")


def test_an_answer_stands_beside_what_is_stored(world: World) -> None:
    store = world.stores["mixed"]
    teachers = Teachers(store)
    names = [*ROW_TABLES, state_of(store)]
    asked = AskingSource(text_alone(store), Asking(teachers, store.request)).ask(1, names)
    assert (asked.unit, teachers.asked) == (1, [1])
    found, stored = asked.tables(), store.shard(1, names)
    assert found.keys() == stored.keys()
    for name in names:
        for column, values in stored[name].items():
            np.testing.assert_array_equal(found[name][column], values)


def test_an_answer_that_is_stored_meanwhile_is_read_there(world: World) -> None:
    store = world.stores["mixed"]
    source = AskingSource(text_alone(store), Asking(Teachers(store, keeps=True), store.request))
    tables = source.ask(1, [state_of(store)]).tables()
    assert [*tables] == [state_of(store)]


def test_who_wants_a_unit_that_is_still_held_pays_nothing(world: World) -> None:
    store = world.stores["mixed"]
    teachers = Teachers(store)
    source = AskingSource(text_alone(store), Asking(teachers, store.request))
    names = [*store.schema]
    first = source.ask(2, names)
    second = source.ask(2, names[:-1])
    assert teachers.asked == [2]
    del first
    third = source.ask(2, names)
    assert teachers.asked == [2]
    del second, third
    source.ask(2, names)
    assert teachers.asked == [2, 2]


@pytest.mark.parametrize("keeps", [False, True], ids=["live", "hybrid"])
def test_a_group_is_the_same_when_its_teacher_answers_while_it_trains(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    """Over several windows and epochs, two students of one language share what is said."""
    monkeypatch.setattr(rows_module, "WINDOW_ROWS", 100)
    store = world.stores["mixed"]
    monkeypatch.setattr(
        "orchestrator.students.build.Store.open",
        lambda folder: text_alone(store) if folder == store.folder else Store(folder, store._manifest),
    )
    students = (student("ann", "aa", "bb"), student("bob", "aa"))
    job = make_job(world, tmp_path / "stored", *students, vocabulary="both", steps=24)
    teachers = Teachers(store, keeps=keeps)
    facts = {
        name: replace(one, live=Asking(teachers, store.request)) if name == "mixed" else one
        for name, one in job.teachers.items()
    }
    hashes = []
    for one in (job, replace(job, root=tmp_path / "asked", teachers=facts)):
        built, _ = train_group(one)
        torch.manual_seed(0)
        for name in ("ann", "bob"):
            export_student(built.module.encoder(name), one.root / "out" / name)
        hashes.append([hash_file(one.root / "out" / name / "model.safetensors") for name in ("ann", "bob")])
    assert hashes[0] == hashes[1]
    units = {size.index for language in ("aa", "bb") for size in StoredSource(store).sizes(language)}
    assert set(teachers.asked) == units
    assert len(teachers.asked) > len(units)  # more than one epoch was read
