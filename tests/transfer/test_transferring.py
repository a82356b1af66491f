"""The whole command on a tiny run: every mode, resuming, and what is refused before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cluster import InProcess
from orchestrator.errors import ConfigError, DataError, StoreError
from orchestrator.run import Run
from orchestrator.steps.transferring import (
    TaskPlan,
    TransferRequest,
    begin,
    plan_transfer,
    rows_path,
    transfer,
    transfer_lines,
)
from orchestrator.tables import print_transfer
from orchestrator.transfer.cells import read_rows
from orchestrator.transfer.modes import DEFAULT_MODES
from tests.evaluation.tiny import write_model, write_pair
from tests.transfer.tiny import COMMON, KINDS, WORDS, tiny_run, vocabulary


def measured(run: Run, **options: object) -> list[TaskPlan]:
    """Plan and measure; the progress must end where it says."""
    plans = plan_transfer(run, TransferRequest(source="xx", **options))  # type: ignore[arg-type]
    state = begin(run, plans)
    transfer(run, plans, InProcess, state=state)
    assert (state.cells_done, state.steps_done) == (state.cells_total, state.steps_total)
    return plans


def test_every_mode_of_every_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(tmp_path)
    plans = measured(run)
    rows = read_rows(rows_path(run))
    for kind in KINDS:
        own = [row for row in rows if row.task == kind]
        assert {row.mode for row in own} == set(DEFAULT_MODES)
        assert {row.language for row in own} == {"xx", "yy"}
        assert {(row.model, row.role, row.other_language, row.seed) for row in own} == {
            ("one-to-many", "student", "xx", 5)
        }
        assert all(0 <= row.value <= 1 for row in own if row.metric != "trained_parameters")
    assert len(transfer_lines(run, plans)) == len(KINDS) * len(DEFAULT_MODES)
    sizes = {row.mode: row.value for row in rows if row.metric == "trained_parameters" and row.task == "words"}
    assert sizes["freeze+0"] == 16 * 3 + 3
    assert sizes["freeze+0"] < sizes["bitfit-trg"] < sizes["freeze+1"] < sizes["full-trg"]
    # where one student serves source and target, the places of a mode are one
    at_home = {
        (row.task, row.mode): row.value
        for row in rows
        if row.language == "xx" and row.metric.endswith(("accuracy", "f1"))
    }
    for kind in KINDS:
        assert at_home[kind, "full-src"] == at_home[kind, "full-trg"] == at_home[kind, "sft"]
        assert at_home[kind, "adapter-src"] == at_home[kind, "adapter-trg"] == at_home[kind, "adapter-joint"]
    print_transfer(transfer_lines(run, plans))
    shown = capsys.readouterr().out
    assert "entity f1 in %, learnt in xx" in shown
    assert "adapter-joint" in shown


def test_what_is_measured_is_not_done_again(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    options = {"tasks": ("words",), "modes": ("full-src", "adapter-trg")}
    measured(run, **options)
    written = rows_path(run).read_text()
    assert all(not plan.missing for plan in measured(run, **options))
    assert rows_path(run).read_text() == written
    assert len(measured(run, **options, num_seeds=2)[0].missing) == 4
    # a row that a kill tore off is measured again, and only that cell
    lines = rows_path(run).read_text().splitlines(keepends=True)
    rows_path(run).write_text("".join(lines[:-1]) + lines[-1][:20])
    again = plan_transfer(run, TransferRequest(source="xx", **options, num_seeds=2))  # type: ignore[arg-type]
    assert len(again[0].missing) == (0 if "trained_parameters" in lines[-1] else 1)


def test_on_a_cluster_the_figures_are_the_same(tmp_path: Path) -> None:
    """Units apart by fine-tuning, `distil` together with its teacher; here on a pretended cluster."""
    run = tiny_run(tmp_path)
    options = {"tasks": ("words", "sentence"), "modes": ("full-src", "sft", "adapter-joint", "distil")}
    measured(run, **options)
    expected = {(row.cell, row.metric): row.value for row in read_rows(rows_path(run))}
    rows_path(run).unlink()
    measured(replace(run, address="10.0.0.1:6379"), **options)
    assert {(row.cell, row.metric): row.value for row in read_rows(rows_path(run))} == expected


def test_a_cell_depends_on_its_own_students_alone(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    options = {"tasks": ("sentence",), "modes": ("full-trg", "sft")}
    measured(run, **options)
    write_model(run.students_folder / "yy" / "final", vocab_size=5 + len(vocabulary("yy")), seed=77)
    from orchestrator.transfer.cells import _hashes

    _hashes.cache_clear()  # one process reads a file once
    plan = plan_transfer(run, TransferRequest(source="xx", **options))[0]  # type: ignore[arg-type]
    assert {(cell.mode.name, cell.target) for cell in plan.missing.values()} == {("full-trg", "yy"), ("sft", "yy")}


def test_one_student_a_teacher_and_a_folder(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, setup="one-to-one")
    folder = write_pair(tmp_path / "mine", [*WORDS["xx"], *WORDS["yy"], *COMMON], seed=4)
    modes = ("full-src", "full-trg", "sft", "distil")
    plan = measured(run, tasks=("words",), modes=modes, models=("student", "student-no-teacher"))[0]
    assert {cell.model.role for cell in plan.cells.values()} == {"student", "baseline"}
    measured(run, tasks=("words",), modes=modes[:3], models=("big", str(folder)))
    rows = [row for row in read_rows(rows_path(run)) if row.metric == "accuracy"]
    assert {row.model for row in rows} == {"one-to-one/student", "one-to-one/student-no-teacher", "big", str(folder)}
    assert {row.role for row in rows if row.model == "big"} == {"teacher"}
    for model in {row.model for row in rows}:
        for language in ("xx", "yy"):
            own = {row.value for row in rows if (row.model, row.language) == (model, language) and row.mode != "distil"}
            assert len(own) == 1


def test_a_missing_student_is_named(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, untrained=["yy"])
    with pytest.raises(StoreError, match="Student 'yy' is not trained yet; run `orch train-students` first"):
        plan_transfer(run, TransferRequest(source="xx"))


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    run = tiny_run(tmp_path_factory.mktemp("refused"))

    def plan(**options: object) -> object:
        return plan_transfer(run, TransferRequest(**{"source": "xx", **options}))  # type: ignore[arg-type]

    return plan


@pytest.mark.parametrize(
    ("error", "options", "text"),
    [
        (ConfigError, {"tasks": ("word",)}, "--task word: no such task under transfer.tasks; did you mean 'words'"),
        (ConfigError, {"modes": ("full",)}, "--mode full: no such mode; did you mean 'full-"),
        (ConfigError, {"models": ("nobody",)}, "--model nobody: neither a model of this run nor a folder"),
        (ConfigError, {"teacher": "nobody", "modes": ("distil",)}, "--teacher nobody: neither a teacher nor a folder"),
        (DataError, {"targets": ("zz",)}, "--target zz: task 'words' has no test sentences in it"),
        (DataError, {"source": "yy"}, "no training sentences in 'yy'; there are some in xx"),
        (DataError, {"modes": ("freeze+9",)}, "the student has 2 layers; name as many at most"),
        (DataError, {"models": ("xx",), "targets": ("yy",)}, "'one-to-many/xx' has no student for 'yy'"),
        (DataError, {"models": ("big",), "modes": ("distil",)}, "'big' has no teacher to learn from"),
    ],
)
def test_refusals(
    refused: Callable[..., object], error: type[Exception], options: dict[str, object], text: str
) -> None:
    with pytest.raises(error) as raised:
        refused(**options)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_students_of_different_shapes_move_nothing(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    write_model(run.students_folder / "yy" / "final", vocab_size=5 + len(vocabulary("yy")), layers=3)
    assert plan_transfer(run, TransferRequest(source="xx", modes=("full-trg", "full-src", "distil")))
    with pytest.raises(DataError, match="differ in architecture, depth, width or heads"):
        plan_transfer(run, TransferRequest(source="xx", modes=("sft",)))


def test_rows_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    path.write_text('{"half": \n' + json.dumps({"model": "a"}) + "\n")
    with pytest.raises(StoreError, match="line 2 is no row of transfer"):
        read_rows(path)
