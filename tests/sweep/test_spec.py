"""A sweep.yaml becomes cells, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.sweep.spec import SweepSection, cells, read_spec, said


def section(**values: object) -> SweepSection:
    return SweepSection.model_validate({"base": "orch.yaml", **values})


def names(**values: object) -> list[str]:
    return [cell.name for cell in cells(section(**values), where="sweep.yaml")]


def test_a_grid_is_every_combination_in_order() -> None:
    found = cells(section(grid={"student.layers": [2, 4], "recipe": ["pkd", "hinton"]}), where="sweep.yaml")
    assert [cell.name for cell in found] == [
        "layers=2,recipe=pkd",
        "layers=2,recipe=hinton",
        "layers=4,recipe=pkd",
        "layers=4,recipe=hinton",
    ]
    assert [(one.key, one.value) for one in found[1].settings] == [("student.layers", 2), ("recipe", "hinton")]


def test_keys_are_as_short_as_they_can_be() -> None:
    assert names(grid={"student.initialisation.layers": ["random"], "student.layers": [2]}) == [
        "initialisation.layers=random,student.layers=2"
    ]


def test_values_become_folders() -> None:
    assert names(grid={"training.betas": {"(0.9, 0.98)": [0.9, 0.98]}}) == ["betas=0.9-0.98"]
    assert names(grid={"share.projections": [True, False]}) == ["projections=true", "projections=false"]
    assert names(grid={"routes.en": [None]}) == ["en=none"]


def test_named_cells_and_baselines_stand_below_the_grid() -> None:
    found = names(grid={"student.layers": [2]}, cells={"wide": {"student.hidden_size": 64}}, baselines=["no-teacher"])
    assert found == ["layers=2", "wide", "no-teacher"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (4, "4"),
        (True, "true"),
        (None, "none"),
        ([], "[]"),
        ([0.9, 0.98], "[0.9, 0.98]"),
        ({"layers": "random", "embedding": "random"}, "layers random, embedding random"),
        ({"en-de": ["en", "de"], "fi": ["fi"]}, "en-de [en, de], fi [fi]"),
        (
            [
                {"type": "soft-targets", "k": 64},
                {"type": "masked-lm"},
                {"type": "hidden-states", "distance": "cosine", "map": "uniform"},
            ],
            "soft-targets(k 64) + masked-lm + hidden-states(cosine, uniform)",
        ),
        (
            [
                {"name": "in", "share": 0.5, "objectives": [{"type": "hidden-states", "map": {1: 3}}]},
                {"name": "out", "share": 0.5, "objectives": [{"type": "masked-lm"}, {"type": "soft-targets"}]},
            ],
            "name in, share 0.5, objectives hidden-states(map 1 3); name out, share 0.5, objectives masked-lm + "
            "soft-targets",
        ),
    ],
)
def test_values_in_few_words(value: object, words: str) -> None:
    assert said(value) == words


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "nothing to compare"),
        ({"grid": {"student.layers": []}}, "grid.student.layers has no values"),
        ({"grid": {"objectives": [[{"type": "masked-lm"}]]}}, "a list or section needs a name"),
        ({"cells": {"teacher": {}}}, "choose another name"),
        ({"grid": {"student.layers": ["a b", "a-b"]}}, "two cells are called 'layers=a-b'"),
        ({"grid": {"student.layers": [2]}, "reference": "layer=2"}, "did you mean 'layers=2'?"),
        ({"cells": {"a": {}}, "baselines": ["no-teacher-time"]}, "list no-teacher too"),
        ({"baselines": ["no-teacher-time", "no-teacher"]}, "take another cell as the reference"),
    ],
)
def test_what_cannot_be_compared_is_said(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=r"^sweep\.yaml: ") as caught:
        cells(section(**values), where="sweep.yaml")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("base: a\nsead: [1]\n", "unknown key 'sead': did you mean 'seeds'?"),
        ("base: a\nseeds: [1, 1]\n", "a seed is listed twice"),
        (
            "base: a\ngrid: {run.seed: [1, 2]}\n",
            "grid.run.seed: a sweep sets this key itself; list seeds under 'seeds'.",
        ),
        ("base: a\ncells: {x: {run.root: y}}\n", "cells.x.run.root: a sweep sets this key itself"),
        ("base: a\ngrid: {student..layers: [1]}\n", "'student..layers' is no key"),
        ("base: a\nbaselines: [none]\n", "baselines.0"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_spec(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
