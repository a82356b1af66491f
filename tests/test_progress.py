"""What `orch status` says of students under way."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.config.loading import parse_config
from orchestrator.config.setups import expand
from orchestrator.progress import measured_transfer, training_progress
from orchestrator.run import Run


def run_of(root: Path, **sections: object) -> Run:
    tree: dict[str, object] = {
        "run": {"root": str(root)},
        "corpus": {"languages": {"en": "en.txt"}},
        "teachers": {"big": {"model": "m", "languages": ["en"]}},
        "student": {"layers": 2, "hidden_size": 8, "heads": 2},
        "training": {"steps": 40},
    }
    return Run(expand(parse_config(tree | sections, where="test")), None)


def logged(run: Run, name: str, **row: object) -> None:
    path = run.students_folder / name / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    usual = {"step": 25, "tokens": 1000, "tokens_per_second": 10.0, "terms": {"masked-lm": 2.5}}
    path.write_text(json.dumps(usual | row) + "\n", encoding="utf-8")


def test_the_phase_is_shown_where_there_are_several(tmp_path: Path) -> None:
    hidden = {"type": "hidden-states"}
    phases = [
        {"name": "up", "share": 0.5, "progress": "bottom-up", "objectives": [hidden]},
        {"name": "out", "share": 0.5, "objectives": [{"type": "masked-lm"}]},
    ]
    run = run_of(tmp_path, phases=phases)
    logged(run, "student", phase="out")
    logged(run, "student-no-teacher", phase="all")
    student, twin = training_progress(run)
    assert (student.done, student.total, student.detail) == (25, 40, "out: masked-lm 2.500")
    assert twin.detail == "masked-lm 2.500"


def test_one_phase_is_not_worth_a_word(tmp_path: Path) -> None:
    run = run_of(tmp_path, objectives=[{"type": "masked-lm"}])
    logged(run, "student", phase="all")
    assert [line.detail for line in training_progress(run)] == ["masked-lm 2.500"]


def test_transfer_counts_the_cells_of_the_last_call(tmp_path: Path) -> None:
    run = run_of(tmp_path, objectives=[{"type": "masked-lm"}])
    assert measured_transfer(run) == []
    folder = tmp_path / "transfer"
    folder.mkdir()
    rows = [{"cell": cell, "task": "pos", "metric": metric} for cell in "abx" for metric in ("accuracy", "macro_f1")]
    torn = '{"cell": "c", "ta'
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + torn, encoding="utf-8")
    (all_of_it,) = measured_transfer(run)
    assert (all_of_it.done, all_of_it.total, all_of_it.name) == (3, 3, "pos")
    (folder / "plan.json").write_text(json.dumps(["a", "b", "c", "d"]), encoding="utf-8")
    (asked,) = measured_transfer(run)
    assert (asked.done, asked.total, asked.unit) == (2, 4, "cells")
