"""Layer maps against the tables of the papers, and inside both models whatever the depths."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.objectives import LayerMapSpec, MapName
from orchestrator.errors import ConfigError
from orchestrator.models.maps import layer_map


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, {1: 3, 2: 6, 3: 9, 4: 12}),  # TinyBERT-4
        ("uniform", 6, 12, {1: 2, 2: 4, 3: 6, 4: 8, 5: 10, 6: 12}),
        ("uniform", 4, 6, {1: 2, 2: 3, 3: 5, 4: 6}),  # halves go up
        ("uniform", 3, 3, {1: 1, 2: 2, 3: 3}),
        ("uniform", 4, 2, {1: 1, 2: 1, 3: 2, 4: 2}),  # a deeper student
        ("skip", 6, 12, {1: 2, 2: 4, 3: 6, 4: 8, 5: 10}),  # PKD-Skip
        ("top", 3, 12, {1: 10, 2: 11, 3: 12}),
        ("bottom", 3, 12, {1: 1, 2: 2, 3: 3}),
        ("middle", 4, 12, {2: 6}),
        ("middle", 5, 12, {3: 7}),
        ("middle", 1, 12, {1: 12}),
        ("last", 3, 12, {3: 12}),
        ({2: 7, 1: 7}, 3, 12, {1: 7, 2: 7}),
    ],
)
def test_maps(spec: LayerMapSpec, student: int, teacher: int, expected: dict[int, int]) -> None:
    found = layer_map(spec, student_layers=student, teacher_layers=teacher)
    assert found == expected
    assert list(found) == sorted(found)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(get_args(MapName)), student=st.integers(1, 30), teacher=st.integers(1, 50))
def test_named_maps_stay_inside_both_models_or_are_refused(name: MapName, student: int, teacher: int) -> None:
    try:
        found = layer_map(name, student_layers=student, teacher_layers=teacher)
    except ConfigError:
        assert student > teacher or (name, student) == ("skip", 1)
        return
    assert all(1 <= m <= student and 1 <= g <= teacher for m, g in found.items())
    assert list(found.values()) == sorted(found.values())
    if name in ("uniform", "top", "last"):
        assert found[student] == teacher


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "words"),
    [
        ("top", 5, 4, "the top map pairs student layer 1 with teacher layer 0, but the teacher's layers are 1 to 4"),
        ("bottom", 5, 4, "student layer 5 with teacher layer 5"),
        ("uniform", 4, 1, "the uniform map pairs student layer 1 with teacher layer 0"),
        ("skip", 1, 4, "the skip map of a student with 1 layer"),
        (
            {5: 1},
            4,
            4,
            "the custom map pairs student layer 5 with teacher layer 1, but the student's layers are 1 to 4",
        ),
        ({}, 4, 4, "the custom map of a student with 4 layer"),
    ],
)
def test_errors_name_the_option_and_the_layers(spec: LayerMapSpec, student: int, teacher: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        layer_map(spec, student_layers=student, teacher_layers=teacher, option="initialisation.map")
    assert str(caught.value).startswith("initialisation.map: ")
