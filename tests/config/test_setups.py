"""A setup is data: what each expands to, and what it refuses."""

from __future__ import annotations

from copy import deepcopy

import pytest

from orchestrator.config.loading import Tree, parse_config
from orchestrator.config.run import Setup
from orchestrator.config.setups import ExpandedRun, expand
from orchestrator.errors import ConfigError

ONE: Tree = {
    "corpus": {"languages": {"en": "en.txt", "de": "de.txt", "fi": "fi.txt"}},
    "teachers": {"big": {"model": "m", "languages": ["en", "de", "fi"]}},
    "student": {"layers": 2, "hidden_size": 8, "heads": 2},
    "objectives": [{"type": "soft-targets"}, {"type": "masked-lm"}],
    "training": {"baseline": False},
}


def build(setup: Setup, **changes: object) -> ExpandedRun:
    return expand(parse_config(deepcopy(ONE) | changes, where="test"), setup=setup)


def test_one_to_one_is_one_student_of_all_languages() -> None:
    run = build("one-to-one")
    (student,) = run.students
    assert student.languages == ("en", "de", "fi")
    assert student.teachers == {"en": "big", "de": "big", "fi": "big"}


def test_one_to_many_is_a_student_per_language_in_groups_of_their_own() -> None:
    run = build("one-to-many")
    assert [s.name for s in run.students] == ["en", "de", "fi"]
    assert [g.name for g in run.groups] == ["en", "de", "fi"]


def test_sharing_puts_students_into_one_group() -> None:
    run = build("one-to-many", share={"parts": ["embedding"]}, groups={"north": ["en", "fi"], "de": ["de"]})
    (group,) = run.groups
    assert {s.name: s.languages for s in group.students} == {"north": ("en", "fi"), "de": ("de",)}


def test_many_to_one_routes_each_language_to_its_teacher() -> None:
    teachers = {"a": {"model": "m", "languages": ["en"]}, "b": {"model": "m", "languages": ["de", "fi"]}}
    (student,) = build("many-to-one", teachers=teachers).students
    assert student.teachers == {"en": "a", "de": "b", "fi": "b"}


def test_routes_settle_a_language_with_two_teachers() -> None:
    teachers = {"a": {"model": "m", "languages": ["en", "de", "fi"]}, "b": {"model": "m", "languages": ["en"]}}
    with pytest.raises(ConfigError, match=r"'en' has 2 teachers \(a, b\).*routes"):
        build("many-to-one", teachers=teachers)
    (student,) = build("many-to-one", teachers=teachers, routes={"en": "b"}).students
    assert student.teachers == {"en": "b", "de": "a", "fi": "a"}


def test_many_to_many_by_explicit_students() -> None:
    teachers = {"a": {"model": "m", "languages": ["en", "de"]}, "b": {"model": "m", "languages": ["de", "fi"]}}
    students = {
        "west": {"languages": ["en", "de"], "teachers": {"de": "a"}, "layers": 3},
        "north": {"languages": ["fi", "de"], "teachers": {"de": "b"}},
    }
    run = build("explicit", teachers=teachers, students=students)
    assert {s.name: s.teachers for s in run.students} == {
        "west": {"en": "a", "de": "a"},
        "north": {"fi": "b", "de": "b"},
    }


@pytest.mark.parametrize("setup", ["one-to-one", "one-to-many"])
def test_one_teacher_setups_refuse_two_unless_one_is_chosen(setup: Setup) -> None:
    teachers = {"a": {"model": "m", "languages": ["en", "de"]}, "b": {"model": "m", "languages": ["de", "fi"]}}
    with pytest.raises(ConfigError, match=r"has one teacher.*two answer for 'de'"):
        build(setup, teachers=teachers)
    chosen = build(setup, teachers=teachers, run={"teacher": "b"})
    assert {name for s in chosen.students for name in s.teachers.values()} == {"b"}


def test_baseline_is_the_same_student_without_a_teacher() -> None:
    run = build("one-to-one", training={"baseline": True}, student={"layers": 2, "hidden_size": 8, "heads": 2})
    student, twin = run.students
    assert (twin.name, twin.role, twin.origin) == ("student-no-teacher", "baseline", "student")
    assert [o.type for o in twin.objectives] == ["masked-lm"]
    assert twin.template.initialisation.layers == twin.template.initialisation.embedding == "random"
    assert twin.template.hidden_size == student.template.hidden_size


def test_pretraining_needs_no_twin() -> None:
    run = build("one-to-one", training={"baseline": True}, objectives=[{"type": "masked-lm"}])
    assert [s.name for s in run.students] == ["student"]


@pytest.mark.parametrize(
    ("changes", "setup", "message"),
    [
        ({"groups": {"x": ["en", "dee"]}}, "one-to-many", "no language 'dee'; did you mean 'de'?"),
        ({"groups": {"x": ["en"]}}, "one-to-many", "only one language or group"),
        ({}, "many-to-one", "needs two teachers"),
        ({"student": None}, "one-to-one", "the template"),
        ({}, "explicit", "'students' is empty"),
        ({"routes": {"en": "bgi"}}, "one-to-one", "no teacher 'bgi'; did you mean 'big'?"),
        ({"run": {"teacher": "x"}}, "one-to-one", "run.teacher"),
        ({"share": {"parts": ["layer-3"]}}, "one-to-many", "'layer-3' is outside"),
        ({"students": {"s": {"languages": ["en"], "teachers": {"en": "bigg"}}}}, "explicit", "did you mean 'big'?"),
    ],
)
def test_refuses_what_it_cannot_satisfy(changes: dict[str, object], setup: Setup, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(setup, **changes)
    assert message in str(caught.value)
