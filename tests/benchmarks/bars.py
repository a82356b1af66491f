"""What is measured, what it is held against, and whether it is reached: one bar per line of docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Bar:
    """`values`: one per round; the median counts. `wanted` None: a figure without a bar."""

    what: str
    against: str
    values: Sequence[float]
    sign: Literal["≥", "≤"] = "≥"
    wanted: float | None = None
    unit: str = "×"
    note: str = ""

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
        return f"| {self.what} | {self.against} | {wanted} | {found} | {reached} | {self.note} |"


HEAD = "| what | against | to reach | measured | reached | |\n|---|---|---|---|---|---|"


def _number(value: float, unit: str) -> str:
    if 0 < abs(value) < 0.001:
        text = f"{value:.2e}"
    elif 0.999 < value < 1:
        text = f"{value:.6g}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()
