"""The curves of how cost grows, as one SVG: a column for each thing it grows with, seconds above memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tests.benchmarks.bars import Bar

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "orch",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}


def draw(points: Sequence[Bar], path: Path) -> None:
    """Every panel from zero, so that twice the height is twice the cost."""
    columns = list(dict.fromkeys(point.over for point in points))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * len(columns), 5.2), layout="constrained")
        for column, over in enumerate(columns, start=1):
            own = [point for point in points if point.over == over]
            for row, is_memory in enumerate((False, True)):
                axes = figure.add_subplot(2, len(columns), row * len(columns) + column)
                _panel(axes, over, [point for point in own if (point.unit == "GB") == is_memory])
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes: Axes, over: str, points: Sequence[Bar]) -> None:
    for what in dict.fromkeys(point.what for point in points):
        curve = [point for point in points if point.what == what]
        at = [point.at or 0.0 for point in curve]
        spread = [[min(point.values) for point in curve], [max(point.values) for point in curve]]
        label = fill(what.removesuffix(": memory"), 28)
        (line,) = axes.plot(
            at,
            [point.median for point in curve],
            marker="o",
            markersize=3,
            label=label,
        )
        axes.fill_between(at, *spread, alpha=0.15, color=line.get_color(), linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(over)
    axes.set_ylabel(points[0].unit)
    axes.legend(fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(-0.05, 1.0))


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
