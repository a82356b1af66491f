"""What is measured, what it is held against, and whether it is reached: the tables of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Bar:
    """`values`: one per round; the median counts. `wanted` None: a figure without a bar.

    `over` and `at`: what a curve grows with, and the point on it that this is.
    """

    what: str
    against: str
    values: Sequence[float]
    sign: Literal["≥", "≤"] = "≥"
    wanted: float | None = None
    unit: str = "×"
    note: str = ""
    over: str = ""
    at: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_reached(self) -> bool:
        if self.wanted is None:
            return True
        return self.median >= self.wanted if self.sign == "≥" else self.median <= self.wanted

    def row(self) -> str:
        """A row of a Markdown table."""
        found = _number(self.median, self.unit)
        if len(self.values) > 1:
            found += f" ({_number(min(self.values), '')}–{_number(max(self.values), '')}, n = {len(self.values)})"
        wanted = "" if self.wanted is None else f"{self.sign} {_number(self.wanted, self.unit)}"
        reached = "" if self.wanted is None else ("yes" if self.is_reached else "**no**")
        what = self.what if self.at is None else f"{self.what}, {self.over} = {self.at:,}"
        return f"| {what} | {self.against} | {wanted} | {found} | {reached} | {self.note} |"


HEAD = "| what | against | to reach | measured | reached | |\n|---|---|---|---|---|---|"
CURVES_HEAD = "| what | over | medians |\n|---|---|---|"


def curve_rows(points: Iterable[Bar]) -> list[str]:
    """A row of a Markdown table per curve, in the order of the points."""
    curves: dict[tuple[str, str], list[str]] = {}
    for point in points:
        found = f"{point.at:,}: {_number(point.median, point.unit)}"
        curves.setdefault((point.what, point.over), []).append(found)
    return [f"| {what} | {over} | {' · '.join(found)} |" for (what, over), found in curves.items()]


def _number(value: float, unit: str) -> str:
    if 0 < abs(value) < 0.001:
        text = f"{value:.2e}"
    elif 0.999 < value < 1:
        text = f"{value:.6g}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()
