"""What a run left behind, read into typed rows: the figures of its evaluation and the curves of its training.

Shape legend: S logged steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.errors import StoreError
from orchestrator.records import MetricRow
from orchestrator.storage import parse_json, read_bytes

Floats = npt.NDArray[np.float64]

_METRIC_ROW = TypeAdapter(MetricRow)
_MAX_BYTES = 1 << 30


class _TrainingRow(BaseModel):
    """A line of a student's metrics.jsonl; `tokens` are those since the start."""

    step: int
    loss: float
    terms: dict[str, float]
    tokens: int
    tokens_per_second: float
    data_wait_share: float
    phase: str = ""


@dataclass(frozen=True)
class TrainingLog:
    """One student's training; every array is [S]."""

    setup: str
    student: str
    steps: npt.NDArray[np.int64]
    loss: Floats
    terms: dict[str, Floats]  # raw values, NaN where a step did not log the term
    tokens: npt.NDArray[np.int64]
    tokens_per_second: Floats
    data_wait_share: Floats
    phases: tuple[str, ...]  # [S] names

    @property
    def phase_starts(self) -> list[int]:
        """The first logged step of every phase but the first."""
        names = self.phases
        return [int(self.steps[row]) for row in range(1, len(names)) if names[row] != names[row - 1]]

    @property
    def seconds(self) -> float:
        """Time spent training, evaluation and checkpoints of other runs not counted."""
        return float((np.diff(self.tokens, prepend=0) / np.maximum(self.tokens_per_second, 1e-9)).sum())


def read_metrics(path: Path) -> list[MetricRow]:
    """The rows of evaluation/metrics.jsonl; none when there is no such file, the later of two of the same figure.

    Raises:
        StoreError: a line is no metric row; the text names it.
    """
    rows: dict[tuple[object, ...], MetricRow] = {}
    for number, line in _lines(path):
        try:
            row = _METRIC_ROW.validate_json(line)
        except ValidationError:
            raise _damaged(path, number) from None
        figure = (row.model, row.language, row.other_language, row.split, row.metric, row.layer, row.seed)
        rows[figure] = row
    return list(rows.values())


def read_training(root: Path) -> list[TrainingLog]:
    """The log of every student under `root`, by setup and name; raises StoreError on a line that is no log row."""
    logs = (_read_log(path) for path in sorted(root.glob("students/*/*/metrics.jsonl")))
    return [log for log in logs if log is not None]


def _read_log(path: Path) -> TrainingLog | None:
    rows: dict[int, _TrainingRow] = {}
    for number, line in _lines(path):
        try:
            row = _TrainingRow.model_validate_json(line)
        except ValidationError:
            raise _damaged(path, number) from None
        rows[row.step] = row
    if not rows:
        return None
    ordered = [rows[step] for step in sorted(rows)]
    terms = list(dict.fromkeys(name for row in ordered for name in row.terms))
    return TrainingLog(
        setup=path.parent.parent.name,
        student=path.parent.name,
        steps=np.array([row.step for row in ordered]),
        loss=np.array([row.loss for row in ordered]),
        terms={name: np.array([row.terms.get(name, np.nan) for row in ordered]) for name in terms},
        tokens=np.array([row.tokens for row in ordered]),
        tokens_per_second=np.array([row.tokens_per_second for row in ordered]),
        data_wait_share=np.array([row.data_wait_share for row in ordered]),
        phases=tuple(row.phase for row in ordered),
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines with something on them; a last line that a kill tore is left out."""
    if not path.is_file():
        return []
    text = read_bytes(path, max_bytes=_MAX_BYTES).decode(errors="replace")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if lines and not text.endswith("\n") and not _is_json(lines[-1][1]):
        lines.pop()
    return lines


def _is_json(line: str) -> bool:
    try:
        parse_json(line.encode())
    except ValueError:
        return False
    return True


def _damaged(path: Path, number: int) -> StoreError:
    return StoreError(f"{path}, line {number} is no row of this file's kind; remove the line, or measure again.")
