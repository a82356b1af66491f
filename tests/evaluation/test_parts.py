"""An evaluation that is stopped goes on with what is missing, and takes no figure of anything else for its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.evaluation import alignment, masked_lm
from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob
from orchestrator.evaluation.masked_lm import _Loaded
from orchestrator.records import MetricRow
from tests.evaluation.test_evaluate import job as large
from tests.faults.disks import Crash

__all__ = ["large"]

R = TypeVar("R")


@pytest.fixture(scope="module")
def job(large: EvaluationJob) -> EvaluationJob:
    return replace(large, evaluation=large.evaluation.model_copy(update={"max_texts": 4, "probes": {}}))


class Watched:
    """What is measured, by name: `model language` of masked LM (each split), `alignment of …` of systems; may die."""

    def __init__(self, patch: pytest.MonkeyPatch, *, dies_at: int | None = None) -> None:
        self.done: list[str] = []
        self._dies_at = dies_at
        measure, encode = masked_lm._measure, alignment.encode_sentences

        def watch_measure(loaded: _Loaded, language: str, *rest: object) -> object:
            return self._note(f"{loaded.model.name} {language}", lambda: measure(loaded, language, *rest))  # type: ignore[arg-type]

        def watch_encode(members: tuple[EvaluatedModel, ...], *rest: object) -> object:
            name = "alignment of " + " and ".join(one.name for one in members)
            return self._note(name, lambda: encode(members, *rest))  # type: ignore[arg-type]

        patch.setattr(masked_lm, "_measure", watch_measure)
        patch.setattr(alignment, "encode_sentences", watch_encode)

    def _note(self, name: str, work: Callable[[], R]) -> R:
        if len(self.done) == self._dies_at:
            raise Crash
        self.done.append(name)
        return work()


def measured(job: EvaluationJob, path: Path, *, dies_at: int | None = None) -> tuple[list[MetricRow], list[str]]:
    """The rows, none of a job that dies, and what was measured for them."""
    with pytest.MonkeyPatch.context() as patch:
        watched, rows = Watched(patch, dies_at=dies_at), []
        try:
            rows = list(evaluate(job, kept_in=path))
        except Crash:
            assert dies_at is not None
        return rows, watched.done


def of_teachers(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("big ")}


def test_finished_parts_are_not_measured_again(job: EvaluationJob, tmp_path: Path) -> None:
    """Killed in the middle of a teacher, of a student, and between two alignments."""
    expected, everything = measured(job, tmp_path / "whole.jsonl")
    assert expected == list(evaluate(job))
    assert of_teachers(everything) == {"big xx", "big yy"}
    assert "alignment of one-to-one/student" in everything
    for dies_at in (1, 7, len(everything) - 1):
        path = tmp_path / f"{dies_at}.jsonl"
        before = measured(job, path, dies_at=dies_at)[1]
        kept = {name for name in before if before.count(name) == everything.count(name)}
        rows, after = measured(job, path)
        assert rows == expected
        assert kept & {*after} == of_teachers(after) & kept  # these run for students, but for nothing else
        assert {*before} - kept <= {*after}
        assert measured(job, path) == (expected, [])


def test_a_teacher_runs_again_only_where_a_student_waits(job: EvaluationJob, tmp_path: Path) -> None:
    everything = measured(job, tmp_path / "whole.jsonl")[1]
    last = [name for name in everything if not name.startswith("alignment")][-1]
    assert last == "one-to-one/student yy"
    path = tmp_path / "parts.jsonl"
    measured(job, path, dies_at=everything.index(last))
    assert of_teachers(measured(job, path)[1]) == {"big yy"}


def test_what_was_measured_of_others_is_not_taken(job: EvaluationJob, tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    expected, everything = measured(job, path)
    again = [replace(one, made_from="anew") if one.name == "one-to-one/student" else one for one in job.models]
    names = {*measured(replace(job, models=tuple(again)), path)[1]}
    assert {name for name in names if not name.startswith("big ")} == {
        "one-to-one/student xx",
        "one-to-one/student yy",
        "alignment of one-to-one/student",
    }
    fewer = job.evaluation.model_copy(update={"max_texts": job.evaluation.max_texts - 1})
    for other in (replace(job, evaluation=fewer), replace(job, seed=job.seed + 1)):
        assert measured(other, path)[1] == everything
    assert measured(job, path) == (expected, [])


def test_a_line_that_a_kill_tore_is_measured_again(job: EvaluationJob, tmp_path: Path) -> None:
    path = tmp_path / "parts.jsonl"
    expected, _ = measured(job, path)
    path.write_bytes(path.read_bytes()[:-10])
    rows, again = measured(job, path)
    assert rows == expected
    assert len(again) == 1
    assert again[0].startswith("alignment")
    assert measured(job, path) == (expected, [])
