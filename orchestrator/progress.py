"""What is done and what is under way, read from the files of a run: for progress bars and for `orch status`."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import OrchError
from orchestrator.run import Run

_TAIL_BYTES = 4096
#: A student whose last line is older than this is not under way.
_STALE_SECONDS = 120.0


@dataclass(frozen=True)
class Progress:
    """One line of the display: `done` of `total` units of one piece of work."""

    step: str
    name: str
    done: int
    total: int
    unit: str
    rate: float | None = None  # of tokens per second
    detail: str = ""
    seconds_left: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.done >= self.total


def run_progress(run: Run) -> list[Progress]:
    """Every piece of work of a setup, in the order of the pipeline."""
    return [*PrecomputePoll(run)(), *training_progress(run), evaluation_progress(run), *_report(run)]


class PrecomputePoll:
    """Shards of each teacher by the names of their receipts; finds each store once, so it may be asked often."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._units: dict[str, tuple[Path, frozenset[str]]] = {}  # teacher -> receipts' folder, their names

    def __call__(self) -> list[Progress]:
        """The state now."""
        if len(self._units) < len(self._run.teachers):
            self._find()
        return [self._teacher(name) for name in self._run.teachers]

    def _find(self) -> None:
        from orchestrator.steps.signals import known_stores

        with suppress(OrchError):
            for name, store in known_stores(self._run).items():
                languages = self._run.teacher_languages(name)
                paths = [store.receipt_path(unit.index) for unit in store.units if unit.language in languages]
                if paths:
                    self._units[name] = (paths[0].parent, frozenset(path.name for path in paths))

    def _teacher(self, name: str) -> Progress:
        if name not in self._units:
            return Progress("precompute", name, 0, 1, "shards", detail="not started")
        folder, names = self._units[name]
        there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        return Progress("precompute", name, len(names & there), len(names), "shards")


def training_progress(run: Run) -> list[Progress]:
    """Steps of each student, as the last line of its metrics.jsonl says."""
    from orchestrator.steps.training import student_receipt

    total = run.config.training.steps
    found = []
    for student in run.expanded.students:
        folder = run.students_folder / student.name
        if student_receipt(folder) is not None:
            found.append(Progress("train", student.name, total, total, "steps"))
            continue
        path = folder / "metrics.jsonl"
        row = last_row(path)
        if row is None:
            found.append(Progress("train", student.name, 0, total, "steps", detail="not started"))
            continue
        step, tokens = int(_number(row, "step")), _number(row, "tokens")
        rate = _number(row, "tokens_per_second")
        terms = row.get("terms")
        detail = " ".join(f"{name} {value:.3f}" for name, value in terms.items()) if isinstance(terms, dict) else ""
        left = (total - step) * tokens / max(1, step) / rate if rate and step else None
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            rate, left = 0.0, None
        found.append(Progress("train", student.name, step, total, "steps", rate or None, detail, left))
    return found


def last_row(path: Path) -> dict[str, object] | None:
    """The last whole line of a metrics file, read from its end; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return None


def _number(row: dict[str, object], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def evaluation_progress(run: Run) -> Progress:
    """Measurements of masked text that are done, of models × languages × splits."""
    from orchestrator.steps.evaluating import is_evaluated, num_measurements, rows_path

    total = num_measurements(run)
    try:
        done = is_evaluated(run)
    except OrchError:
        return Progress("evaluate", run.expanded.setup, 0, total, "measurements", detail="not started")
    path = rows_path(run)
    count = path.read_text(encoding="utf-8").count('"masked_lm_accuracy"') if path.exists() else 0
    return Progress("evaluate", run.expanded.setup, total if done else min(count, total - 1), total, "measurements")


def _report(run: Run) -> list[Progress]:
    page = run.root / "report" / "index.html"
    return [Progress("report", str(page), int(page.exists()), 1, "pages")]
