"""Learning curves: what each objective was worth over the steps.

Shape legend: S logged steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.config.setups import BASELINE_SUFFIX
from orchestrator.report.data import DataFile
from orchestrator.report.drawing import Line, line_plot
from orchestrator.report.headline import order
from orchestrator.report.looks import LegendEntry, Panel, PanelRow, line_looks
from orchestrator.report.reading import TrainingLog

_DRAWN_POINTS = 300


def learning_curves(logs: Sequence[TrainingLog]) -> list[PanelRow]:
    """For each setup the raw value of every objective over the steps, a line per student."""
    setups: dict[str, list[TrainingLog]] = defaultdict(list)
    for log in sorted(logs, key=lambda log: order("student", f"{log.setup}/{log.student}")):
        setups[log.setup].append(log)
    made = []
    for setup, members in setups.items():
        looks = line_looks(
            {log.student: "baseline" if log.student.endswith(BASELINE_SUFFIX) else "student" for log in members}
        )
        terms = dict.fromkeys(name for log in members for name in log.terms)
        panels = [_panel(setup, term, [log for log in members if term in log.terms], looks) for term in terms]
        made.append(PanelRow(setup, tuple(looks.values()), tuple(panels)))
    return made


def _panel(setup: str, term: str, logs: Sequence[TrainingLog], looks: dict[str, LegendEntry]) -> Panel:
    table = [
        (log.student, log.phases[row], int(log.steps[row]), float(value) if np.isfinite(value) else None)
        for log in logs
        for row, value in enumerate(log.terms[term])
    ]
    data = DataFile(f"learning {setup} {term}", ["student", "phase", "step", term], table)
    ends = "; ".join(f"{looks[log.student].label} {_ends(log.terms[term])}" for log in logs)
    svg = line_plot(
        [_line(log, term, looks[log.student]) for log in logs],
        alt=f"{term} over the steps of training. {ends}.",
        x_label="step",
        upright_at=sorted({start for log in logs for start in log.phase_starts}),
    )
    phases = list(dict.fromkeys(name for log in logs for name in log.phases))
    return Panel(term, svg, data, note=f"phases {', '.join(phases)}" if len(phases) > 1 else "")


def _ends(values: npt.NDArray[np.float64]) -> str:
    known = values[np.isfinite(values)]
    return f"from {known[0]:.3g} to {known[-1]:.3g}" if len(known) else "not known"


def _line(log: TrainingLog, term: str, look: LegendEntry) -> Line:
    drawn = np.unique(np.linspace(0, len(log.steps) - 1, _DRAWN_POINTS).astype(int))  # all when there are few
    smooth, raw = _smooth(log.terms[term])[drawn], log.terms[term][drawn]
    return Line(log.steps[drawn].astype(np.float64), smooth, look.colour, dashed=look.style == "dashed", raw=raw)


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over a window of a twentieth of the curve, shorter at its ends; NaN counts for nothing."""
    half = len(values) // 40
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    number = counts[last] - counts[first]
    means = np.full(len(values), np.nan)
    np.divide(sums[last] - sums[first], number, out=means, where=number > 0)
    return means
