"""Every configuration that ships with orch can be read, and its setup can be expanded."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.loading import load_config
from orchestrator.config.setups import expand
from orchestrator.resources import configs_folder

RUNS = sorted(path for path in configs_folder().glob("**/*.yaml") if path.parent.name not in ("recipes", "cluster"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(configs_folder())))
def test_reads_and_expands(path: Path) -> None:
    run = expand(load_config(path))
    assert run.students
    for student in run.students:
        assert set(student.teachers) == set(student.languages)


def test_there_is_one_for_each_setup_and_for_the_hub() -> None:
    names = {str(path.relative_to(configs_folder())) for path in RUNS}
    assert {"one-to-one.yaml", "many-to-one.yaml", "one-to-many.yaml", "starter.yaml"} <= names
    assert sum(name.startswith("public/") for name in names) == 4


@pytest.mark.parametrize("setup", ["one-to-one", "many-to-one", "one-to-many"])
def test_the_demo_expands_to_all_three_setups(setup: str) -> None:
    run = expand(load_config(configs_folder() / "demo" / "students.yaml"), setup=setup)  # type: ignore[arg-type]
    assert {"one-to-one": 1, "many-to-one": 1, "one-to-many": 3}[setup] * 2 == len(run.students)
