"""Rows of transfer as lines of a table: mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.records import TransferRow


@dataclass(frozen=True)
class Figure:
    """One metric over `seeds` seeds; `spread` is the standard deviation, None for a single seed."""

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Line:
    """One mode of one model on one task, from one language to several."""

    task: str
    model: str
    mode: str
    metric: str
    source: str
    figures: Mapping[str, Figure]  # target -> figure
    trained_parameters: int


def summarise(rows: Sequence[TransferRow], *, metrics: Mapping[str, str]) -> list[Line]:
    """One line per task, model, mode and source, in the order of the rows; `metrics`: task -> the metric to show."""
    values: dict[tuple[str, str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    sizes: dict[tuple[str, str, str, str], int] = {}
    for row in rows:
        key = (row.task, row.model, row.mode, row.other_language or "")
        if row.metric == metrics.get(row.task):
            values[key][row.language].append(row.value)
        elif row.metric == "trained_parameters":
            sizes[key] = int(row.value)
    return [
        Line(
            task=task,
            model=model,
            mode=mode,
            metric=metrics[task],
            source=source,
            figures={target: _figure(found) for target, found in sorted(targets.items(), key=lambda t: t[0] != source)},
            trained_parameters=sizes.get((task, model, mode, source), 0),
        )
        for (task, model, mode, source), targets in values.items()
    ]


def _figure(values: Sequence[float]) -> Figure:
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Figure(statistics.fmean(values), spread, len(values))
