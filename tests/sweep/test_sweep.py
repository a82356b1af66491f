"""`orch sweep` from end to end: shared stores, one table, stops, failures, and the same students on Ray."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml

from orchestrator.storage import hash_file
from orchestrator.sweep.opening import open_sweep
from orchestrator.sweep.planning import make_sweep_plan
from tests.e2e.command import orch, start
from tests.e2e.conftest import copy_of, shelf
from tests.e2e.project import make_project, write_config

__all__ = ["shelf"]

pytestmark = pytest.mark.timeout(900)  # seconds when nobody else computes

LANGUAGES = ("en", "de")
BASE: dict[str, object] = {
    "corpus": {
        "max_length": 48,
        "languages": {
            language: {
                "train": {"files": f"text/{language}.txt", "max_texts": 30},
                "held_out": {"files": "text/held_out.jsonl", "column": language},
            }
            for language in LANGUAGES
        },
    },
    "teachers": {"multilingual": {"model": "teachers/multilingual", "languages": [*LANGUAGES], "dtype": "float32"}},
    "routes": {},
    "objectives": [{"type": "soft-targets", "k": 8}],
    "share": {},
    "training": {"steps": 3, "tokens_per_batch": 128, "log_every": 1, "learning_rate": 1e-3, "threads": 1},
    "evaluation": {
        "max_texts": 4,
        "parallel": [
            {"name": "bible", "files": "text/held_out.jsonl", "columns": {"en": "en", "de": "de"}, "max_pairs": 10}
        ],
    },
}
SWEEP: dict[str, object] = {
    "base": "orch.yaml",
    "root": "sweep",
    "seeds": [1, 2],
    "grid": {
        "objectives": {
            "soft": [{"type": "soft-targets", "k": 8}],
            "hidden": [{"type": "soft-targets", "k": 16}, {"type": "hidden-states", "map": "last"}],
        }
    },
    "baselines": ["untrained"],
}
CELLS = ("objectives=soft", "objectives=hidden", "untrained")


@pytest.fixture(scope="module")
def made(shelf: Path) -> Path:
    """A project with a sweep; nobody may change it."""
    make_project(shelf / "made")
    write_config(shelf / "made", BASE)
    write_sweep(shelf / "made", {})
    return shelf / "made"


@pytest.fixture
def project(made: Path, shelf: Path) -> Path:
    return copy_of(made, shelf)


@pytest.fixture(scope="module")
def undisturbed(made: Path, shelf: Path) -> Path:
    """The same project, swept without a stop and without Ray."""
    folder = copy_of(made, shelf)
    result = orch("sweep", folder=folder)
    assert result.status == 0, result.err
    assert "objectives=hidden" in result.out
    return folder


def write_sweep(folder: Path, changes: dict[str, object]) -> None:
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP | changes, sort_keys=False), encoding="utf-8")


def weights(project: Path) -> dict[str, str]:
    found = sorted((project / "sweep" / "cells").glob("*/*/students/*/*/final/model.safetensors"))
    return {str(path.relative_to(project)): hash_file(path) for path in found}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_cells_share_stores_and_each_unit_is_computed_once(undisturbed: Path) -> None:
    shared = undisturbed / "sweep" / "shared"
    stores = sorted((shared / "signals").glob("multilingual-*"))
    assert len(stores) == 2  # one per seed, for three cells that ask different signals
    costs = lines(shared / "logs" / "costs.jsonl")
    units = sum(len(list((store / "shards").glob("*.json"))) for store in stores)
    assert len(costs) == units
    for store in stores:
        shard = next(path for path in (store / "shards").iterdir() if path.is_dir())
        tables = {path.stem for path in shard.glob("*.arrow")}
        assert {"topk_016", "hidden_02"} <= tables
        assert "topk_008" not in tables
    assert len(list((shared / "vocab").iterdir())) == 2
    for cell in CELLS:
        assert not (undisturbed / "sweep" / "cells" / cell / "seed-1" / "signals").exists()
    assert len(set(weights(undisturbed).values())) == 6


def test_one_table_in_four_forms(undisturbed: Path) -> None:
    folder = undisturbed / "sweep" / "report"
    figures = lines(folder / "figures.jsonl")
    own = [row for row in figures if row["cell"] == "objectives=hidden" and row["measure"] == "accuracy"]
    assert sorted((row["seed"], row["unit"]) for row in own) == [(s, u) for s in (1, 2) for u in ("de", "en")]
    reference = {(row["seed"], row["measure"], row["unit"]): row["value"] for row in figures if row["cell"] == CELLS[0]}
    table = lines(folder / "table.jsonl")
    assert {row["cell"] for row in table} == {"teacher", *CELLS}
    for row in table:
        values = [
            (line["value"], reference.get((line["seed"], line["measure"], line["unit"])))
            for line in figures
            if (line["cell"], line["measure"]) == (row["cell"], row["measure"])
        ]
        assert row["mean"] == pytest.approx(sum(float(str(v)) for v, _ in values) / len(values))
        if row["cell"] in CELLS[1:]:
            gaps = [float(str(value)) - float(str(other)) for value, other in values]
            assert (row["difference"], row["pairs"]) == (pytest.approx(sum(gaps) / len(gaps)), len(gaps))
            assert float(str(row["low"])) <= float(str(row["difference"])) + 1e-12
    assert (folder / "table.csv").read_text().startswith("cell,role,measure,mean,spread")
    markdown = (folder / "table.md").read_text()
    assert "| objectives=soft (reference) |" in markdown
    assert "| *untrained* |" in markdown
    page = (folder / "index.html").read_text()
    assert all(f'<span class="model">{cell}</span>' in page for cell in CELLS)
    assert "http" not in page.replace("http://www.w3.org", "")  # works alone


def test_nothing_is_done_twice(undisturbed: Path, shelf: Path) -> None:
    project = copy_of(undisturbed, shelf)
    before = {path: path.stat().st_mtime_ns for path in (project / "sweep").rglob("*.safetensors")}
    assert orch("sweep", folder=project).status == 0
    assert {path: path.stat().st_mtime_ns for path in (project / "sweep").rglob("*.safetensors")} == before
    log = (project / "sweep" / "logs" / "orch.log").read_text()
    assert log.count("evaluation of") == 2  # one per seed, all cells together
    assert log.count("is trained after") == 6


def test_the_plan_trains_nothing(project: Path) -> None:
    result = orch("sweep", "--plan", folder=project)
    assert result.status == 0, result.err
    assert all(cell in result.out for cell in CELLS)
    assert result.out.count("multilingual") == 2
    assert "0 of 2" in result.out
    assert all(len(line) <= 80 for line in result.out.partition("Each teacher")[0].splitlines()[1:])
    assert re.search(r"^objectives=soft +objectives = soft-targets\(k 8\)", result.out, re.MULTILINE)
    assert not (project / "sweep" / "cells").exists()


def test_the_plan_goes_by_the_speed_of_cells_that_were_trained(
    undisturbed: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_of(undisturbed, shelf)
    for folder in (project / "sweep" / "cells" / "objectives=hidden").iterdir():
        shutil.rmtree(folder)
    monkeypatch.setattr("orchestrator.sweep.planning.gemm_flops", lambda: 1.0)  # a machine that does nothing
    monkeypatch.chdir(project)
    plan = make_sweep_plan(open_sweep(Path("sweep.yaml"), address="in-process"))
    soft, hidden, untrained = plan.cells
    assert (soft.seconds, untrained.seconds) == (0.0, 0.0)
    assert 0.0 < hidden.seconds < 600.0
    assert not hidden.is_measured


def test_a_typo_in_a_grid_key_is_one_sentence(project: Path) -> None:
    write_sweep(project, {"grid": {"student.layres": [1]}})
    result = orch("sweep", folder=project)
    assert result.status == 1
    assert "cell layres=1" in result.err
    assert "student: unknown key 'layres': did you mean 'layers'?" in result.err
    assert "Traceback" not in result.err
    assert not (project / "sweep").exists()


def test_a_cell_that_cannot_be_is_refused_before_anything_runs(project: Path) -> None:
    write_sweep(project, {"grid": {"student.initialisation.map": {"odd": {1: 7}}}})
    result = orch("sweep", folder=project)
    assert result.status == 1
    assert result.err.startswith("orch: sweep.yaml: cell map=odd: ")
    assert not (project / "sweep").exists()


def test_a_mode_that_writes_while_it_trains_is_refused(project: Path) -> None:
    write_config(project, BASE | {"signals": {"mode": "hybrid"}})
    result = orch("sweep", folder=project)
    assert result.status == 1
    assert "signals.mode hybrid" in result.err


def test_a_cell_that_fails_is_named_and_stops_no_other(undisturbed: Path, shelf: Path) -> None:
    project = copy_of(undisturbed, shelf)
    bad = project / "sweep" / "cells" / CELLS[1] / "seed-2"
    shutil.rmtree(bad)
    bad.mkdir()
    (bad / "students").touch()  # a file where a folder is needed
    late = project / "sweep" / "cells" / CELLS[2] / "seed-1"
    shutil.rmtree(late)
    result = orch("sweep", folder=project)
    assert result.status == 1
    assert "✗ objectives=hidden, seed 2: " in result.out
    assert (late / "evaluation" / "metrics.jsonl").exists()
    rows = {row["cell"]: row for row in lines(project / "sweep" / "report" / "table.jsonl") if row["measure"] == "kl"}
    assert [rows[cell]["seeds"] for cell in CELLS] == [2, 1, 2]
    assert rows[CELLS[1]]["pairs"] == 2
    assert "seed 2: " in (project / "sweep" / "report" / "table.md").read_text()
    (bad / "students").unlink()
    assert orch("sweep", folder=project).status == 0
    assert weights(project) == weights(undisturbed)


def kill_when(project: Path, ready: str) -> None:
    """Start the sweep, and kill -9 it as soon as a file that matches `ready` is there."""
    process = start("sweep", "--address", "in-process", folder=project)
    try:
        while not any((project / "sweep").glob(ready)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_kill_9_in_every_step_and_go_on(project: Path, undisturbed: Path) -> None:
    for ready in (
        "shared/signals/*/shards/*.json",
        "cells/*/*/students/*/student/metrics.jsonl",
        "cells/objectives=hidden/seed-1/students/*/student/final/training.json",
        "cells/*/*/evaluation/*.parts.jsonl",
    ):
        kill_when(project, ready)
    assert not (project / "sweep" / "report").exists()
    assert orch("sweep", folder=project).status == 0
    assert weights(project) == weights(undisturbed)
    report = Path("sweep", "report", "figures.jsonl")
    assert lines(project / report) == lines(undisturbed / report)
    assert (project / report).read_text() == (undisturbed / report).read_text()


@pytest.mark.slow
def test_ctrl_c_stops_it_with_a_sentence(project: Path) -> None:
    process = start("sweep", "--address", "in-process", folder=project)
    while not any((project / "sweep").glob("shared/signals/*/shards/*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip().endswith("Stopped. What was finished is kept: the same command goes on from here.")


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_the_students_are_the_same(project: Path, undisturbed: Path) -> None:
    process = start("sweep", "--parallel", "2", folder=project)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    assert weights(project) == weights(undisturbed)
