"""What each mode trains, where, and into which student it goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import ConfigError, DataError
from orchestrator.transfer.job import Cell, Student, Training, TransferModel
from orchestrator.transfer.measuring import plan_trainings
from orchestrator.transfer.modes import DEFAULT_MODES, parse_mode

EN, DE, BIG = Student("en", "en"), Student("de", "de"), Student("big", "big")
PAIR = TransferModel("pair", "student", {"en": EN, "de": DE}, BIG)
ONE = TransferModel("one", "student", {"en": EN, "de": EN}, BIG)


def plan(model: TransferModel, mode: str, target: str = "de") -> Cell:
    return Cell.plan(model, parse_mode(mode), source="en", target=target, seed=0)


@pytest.mark.parametrize(
    ("mode", "what", "students", "tested", "moved"),
    [
        ("full-src", "full", (EN,), EN, False),
        ("full-trg", "full", (DE,), DE, False),
        ("freeze+0", "freeze", (EN,), DE, True),
        ("freeze+2", "freeze", (EN,), DE, True),
        ("adapter-src", "adapter", (EN,), DE, True),
        ("adapter-trg", "adapter", (DE,), DE, False),
        ("adapter-joint", "adapter", (EN, DE), DE, False),
        ("bitfit-src", "bitfit", (EN,), DE, True),
        ("bitfit-trg", "bitfit", (DE,), DE, False),
        ("bitfit-joint", "bitfit", (EN, DE), DE, False),
        ("sft", "full", (EN,), DE, True),
        ("distil", "full", (DE,), DE, False),
    ],
)
def test_each_mode(mode: str, what: str, students: tuple[Student, ...], tested: Student, moved: bool) -> None:
    cell = plan(PAIR, mode)
    assert (cell.training.what, cell.training.students, cell.tested, cell.is_moved) == (what, students, tested, moved)
    assert cell.training.top == (2 if mode == "freeze+2" else 0)
    assert cell.training.teacher == (BIG if mode == "distil" else None)


@pytest.mark.parametrize("mode", DEFAULT_MODES)
def test_where_one_student_serves_both_languages_nothing_moves(mode: str) -> None:
    for cell in (plan(ONE, mode), plan(PAIR, mode, target="en")):
        assert cell.training.students == (EN,)
        assert cell.tested == EN
        assert not cell.is_moved


def test_places_of_one_student_are_one_fine_tuning() -> None:
    cells = {mode: plan(ONE, mode) for mode in DEFAULT_MODES if mode != "distil"}
    trainings = plan_trainings(cells)
    assert [tuple(served) for served in trainings.values()] == [
        ("full-src", "full-trg", "sft"),
        ("freeze+0",),
        ("freeze+1",),
        ("adapter-src", "adapter-trg", "adapter-joint"),
        ("bitfit-src", "bitfit-trg", "bitfit-joint"),
    ]


def test_one_fine_tuning_of_the_source_serves_every_target_and_teachers_come_first() -> None:
    cells = {
        f"{mode} {target}": plan(PAIR, mode, target)
        for mode in ("distil", "full-src", "sft")
        for target in PAIR.students
    }
    trainings = plan_trainings(cells)
    assert next(iter(trainings)) == Training("full", (BIG,), 0)
    assert trainings[Training("full", (BIG,), 0)] == {}
    assert set(trainings[Training("full", (EN,), 0)]) == {"full-src en", "full-src de", "sft en", "sft de"}


def test_names_are_read_in_any_case_and_corrected() -> None:
    assert parse_mode(" FULL-TRG ").name == "full-trg"
    assert parse_mode("Freeze+03").name == "freeze+3"
    with pytest.raises(ConfigError, match="adapter-target: no such mode; did you mean 'adapter-trg'"):
        parse_mode("adapter-target")
    with pytest.raises(ConfigError, match="no such mode"):
        parse_mode("freeze")


def test_what_cannot_be_planned() -> None:
    with pytest.raises(DataError, match="'pair' has no student for 'fi'; choose among en, de"):
        plan(PAIR, "sft", target="fi")
    with pytest.raises(DataError, match="Mode distil: 'pair' has no teacher"):
        plan(replace(PAIR, teacher=None), "distil")
