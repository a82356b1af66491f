"""What is done and what is under way, read from the files of a run: for progress bars and for `orch status`."""

from __future__ import annotations

import json
import time
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
    return [*precompute_progress(run), *training_progress(run), *_later_steps(run)]


def precompute_progress(run: Run) -> list[Progress]:
    """Shards of each teacher, as the receipts on disk say; nothing before the corpus is read."""
    from orchestrator.steps.signals import known_stores

    try:
        stores = known_stores(run)
    except OrchError:
        return [Progress("precompute", teacher, 0, 1, "shards", detail="not started") for teacher in run.teachers]
    found = []
    for teacher in run.teachers:
        store = stores.get(teacher)
        if store is None:
            found.append(Progress("precompute", teacher, 0, 1, "shards", detail="not started"))
            continue
        languages = run.teacher_languages(teacher)
        units = [unit for unit in store.units if unit.language in languages]
        waiting = sum(unit.language in languages for unit in store.missing())
        found.append(Progress("precompute", teacher, len(units) - waiting, len(units), "shards"))
    return found


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


def _later_steps(run: Run) -> list[Progress]:
    page = run.root / "report" / "index.html"
    return [
        Progress("evaluate", run.expanded.setup, int(run.metrics_path.exists()), 1, "files"),
        Progress("report", str(page), int(page.exists()), 1, "files"),
    ]
