"""Every recipe trains a tiny student from text to export, and what it compares is written down phase by phase."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
import yaml

from orchestrator import pipeline
from orchestrator.config.recipes import read_recipe, shipped_recipes
from orchestrator.run import Run, open_run
from tests.e2e.project import CONFIG, LANGUAGES, make_project

NAMES = [recipe.name for recipe in shipped_recipes() if recipe.name != "multilingual-sentence"]
STUDENT = {"layers": 2, "hidden_size": 32, "heads": 2}
TRAINING = {"steps": 16, "tokens_per_batch": 256, "log_every": 1, "learning_rate": 1e-3, "baseline": False}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes") / "project"
    make_project(folder)
    return folder


def trained(folder: Path, name: str) -> Run:
    student = {**STUDENT, "initialisation": {"teacher": "multilingual"}} if name == "mergedistill" else STUDENT
    tree = {
        **{key: value for key, value in CONFIG.items() if key not in ("objectives", "share")},
        "recipe": name,
        "run": {"root": f"runs/{name}", "seed": 1, "teacher": "multilingual"},
        "student": student,
        "training": TRAINING,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with contextlib.chdir(folder):
        run = open_run(path, address="in-process")
        with pipeline.driving(run), pipeline.lazy_cluster(run) as cluster:
            pipeline.compute_signals(run, cluster)
            pipeline.build_vocabularies(run)
            pipeline.train(run, cluster.get)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains(project: Path, name: str) -> None:
    run = trained(project, name)
    students = run.expanded.students
    assert len(students) == (len(LANGUAGES) if name.startswith("mono") else 1)
    for student in students:
        folder = project / run.students_folder / student.name
        assert (folder / "final" / "model.safetensors").exists()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["phase"] for line in lines] == [
            phase.name for phase in student.phases for _ in range(phase.num_steps)
        ]
        logged = {term for line in lines for term in line["terms"]}
        assert logged == {objective.type for objective in read_recipe(name).objectives}
        assert all(math.isfinite(value) for line in lines for value in line["terms"].values())
