"""How far a sweep is, read from the files of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator import progress
from orchestrator.progress import Progress
from orchestrator.run import Run
from orchestrator.steps.evaluating import num_measurements, parts_path
from orchestrator.sweep.opening import Sweep


def training_progress(sweep: Sweep) -> list[Progress]:
    """All steps of all cells in one line, then a line for every student that is under way."""
    found = {one.name: progress.training_progress(one.run) for one in sweep.runs}
    students = [(name, student) for name, students in found.items() for student in students]
    ended = sum(all(student.is_done for student in students) for students in found.values())
    total = Progress(
        "train",
        "all cells",
        sum(student.done for _, student in students),
        sum(student.total for _, student in students),
        "steps",
        detail=f"{ended} of {len(found)} runs done",
    )
    return [total, *(replace(student, step="", name=name) for name, student in students if _is_under_way(student))]


def _is_under_way(student: Progress) -> bool:
    return student.tokens_per_second is not None and not student.is_done


def evaluation_progress(runs: Sequence[Run]) -> list[Progress]:
    """Figures of the job that measures `runs`."""
    total = sum(map(num_measurements, runs))
    again = 2 * sum(len(run.config.teachers[name].languages) for run in runs[1:] for name in run.teachers)
    total -= again * runs[0].config.evaluation.teachers  # teachers run once
    path = parts_path(runs[0])
    done = path.read_text(encoding="utf-8").count('"masked_lm_accuracy"') if path.exists() else 0
    return [Progress("evaluate", f"seed {runs[0].config.run.seed}", min(done, total), total, "figures")]
