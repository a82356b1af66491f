"""Plots as SVG that takes its colours and its font from the page, so that it suits a light and a dark one.

Matplotlib draws with stand-in colours, and each of them becomes a CSS variable in the SVG.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Floats = npt.NDArray[np.floating]
#: A CSS variable of the page without its dashes: ink, muted, rule, teacher, student, baseline, series-0 … series-7.
Colour = str
Shape = Literal["disc", "ring", "diamond"]

_COLOURS: tuple[Colour, ...] = (
    "ink",
    "muted",
    "rule",
    "paper",
    "teacher",
    "student",
    "baseline",
    *(f"series-{number}" for number in range(8)),
)
_STAND_INS = {name: f"#0101{number:02x}" for number, name in enumerate(_COLOURS)}

#: Ticks stand at multiples of these times a power of ten.
_STEPS = [1, 2, 5, 10]

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "orch",
    "text.parse_math": False,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _STAND_INS["rule"],
    "axes.labelcolor": _STAND_INS["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _STAND_INS["rule"],
    "grid.linewidth": 0.7,
    "xtick.color": _STAND_INS["rule"],
    "ytick.color": _STAND_INS["rule"],
    "xtick.labelcolor": _STAND_INS["muted"],
    "ytick.labelcolor": _STAND_INS["muted"],
    "lines.solid_capstyle": "round",
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Line:
    """One curve; `raw` is drawn faintly behind it."""

    x: Floats
    y: Floats
    colour: Colour
    dashed: bool = False
    markers: bool = False
    raw: Floats | None = None


@dataclass(frozen=True)
class Dot:
    """One value in a row of a dot plot."""

    row: int
    value: float
    colour: Colour
    shape: Shape


@dataclass(frozen=True)
class Interval:
    """A value and the interval around it, in a row of an interval plot."""

    row: int
    low: float
    value: float
    high: float
    colour: Colour


def line_plot(
    lines: Sequence[Line],
    *,
    alt: str,
    x_label: str,
    y_percent: bool = False,
    y_from_zero: bool = False,
    dotted_at: float | None = None,
    upright_at: Sequence[float] = (),
    x_ticks: Sequence[tuple[float, str]] = (),
) -> str:
    """Curves over a common axis, as the text of an SVG element 360 units wide; `alt` is for who cannot see it."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(360, 230)
        for line in lines:
            colour = _STAND_INS[line.colour]
            if line.raw is not None:
                axes.plot(line.x, line.raw, color=colour, linewidth=0.8, alpha=0.18)
            axes.plot(
                line.x,
                line.y,
                color=colour,
                linestyle=(0, (4, 2.5)) if line.dashed else "solid",
                marker="o" if line.markers else None,
                markersize=4,
            )
        if dotted_at is not None:
            axes.axhline(dotted_at, color=_STAND_INS["muted"], linestyle=(0, (1, 2)), linewidth=1.2)
        for place in upright_at:
            axes.axvline(place, color=_STAND_INS["muted"], linestyle=(0, (1, 2)), linewidth=1.0)
        if not y_percent:
            low, high = _late_range(lines)
            axes.set_ylim(min(low, 0.0) if y_from_zero else low, high)
        if x_ticks:
            axes.set_xticks([at for at, _ in x_ticks], [word for _, word in x_ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        if y_percent:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.grid(visible=False, axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel(x_label)
        return _svg(figure, alt)


def dot_plot(rows: Sequence[str], dots: Sequence[Dot], *, alt: str, x_percent: bool) -> str:
    """One row per name with its dots, joined by a line from the least to the greatest; an SVG 360 units wide."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(360, 64 + 30 * len(rows))
        for number in range(len(rows)):
            values = [dot.value for dot in dots if dot.row == number]
            axes.plot([min(values), max(values)], [number, number], color=_STAND_INS["rule"], linewidth=3, zorder=1)
        for dot in dots:
            colour = _STAND_INS[dot.colour]
            axes.plot(
                [dot.value],
                [dot.row],
                linestyle="none",
                marker="D" if dot.shape == "diamond" else "o",
                markersize=7 if dot.shape == "diamond" else 8.5,
                markerfacecolor=_STAND_INS["paper"] if dot.shape == "ring" else colour,
                markeredgecolor=colour,
                markeredgewidth=2 if dot.shape == "ring" else 0,
                zorder=3,
            )
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(axis="y", labelcolor=_STAND_INS["ink"], labelsize=12)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        if x_percent:
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        axes.grid(visible=False, axis="y")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure, alt)


def interval_plot(rows: Sequence[str], intervals: Sequence[Interval], *, alt: str, percent: bool) -> str:
    """One row per name with a value, the interval around it, and a line where nothing differs; an SVG 360 wide."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(360, 64 + 30 * len(rows))
        axes.axvline(0.0, color=_STAND_INS["muted"], linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
        for one in intervals:
            colour = _STAND_INS[one.colour]
            axes.plot([one.low, one.high], [one.row, one.row], color=colour, linewidth=3, zorder=2)
            axes.plot([one.value], [one.row], linestyle="none", marker="o", markersize=8.5, color=colour, zorder=3)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(axis="y", labelcolor=_STAND_INS["ink"], labelsize=10)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
        if percent:
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}".replace("-", "−"))
        axes.grid(visible=False, axis="y")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure, alt)


def _late_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Limits that show what came after the first tenth; the fall from a random start would flatten all the rest."""
    late = np.concatenate([line.y[len(line.y) // 10 :] for line in lines])
    known = late[np.isfinite(late)]
    if len(known) == 0:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _canvas(width: int, height: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _svg(figure: Figure, alt: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    text = re.sub(r"font: ([0-9.]+px)[^;\"]*;|font-size: ([0-9.]+px); font-family:[^;\"]*;", r"font-size: \1\2;", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # these are numbered within a figure and would repeat in the page
    own = f"f{zlib.crc32(text.encode()):08x}-"
    text = re.sub(r'(id="|url\(#|href="#)', rf"\1{own}", text)
    for name, stand_in in _STAND_INS.items():
        text = text.replace(stand_in, f"var(--{name})")
    return with_title(text, alt)


def with_title(svg: str, alt: str) -> str:
    """An SVG element that says in words what it shows."""
    return svg.replace(">", f"><title>{html.escape(alt)}</title>", 1)
