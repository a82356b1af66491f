"""Timing in pairs: both sides in turn in one run, so that a ratio holds when the machine's speed drifts."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers


@dataclass(frozen=True)
class Pair:
    """Seconds of two sides, measured alternately, and the ratio first / second pair by pair."""

    name: str
    first: list[float]
    second: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.first, self.second, strict=True)]

    def row(self) -> str:
        """A row of a Markdown table: medians, and the median ratio with its lowest and highest."""
        ratios = self.ratios
        return (
            f"| {self.name} | {statistics.median(self.first):.3f} | {statistics.median(self.second):.3f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |"
        )


def measure(name: str, first: Callable[[], object], second: Callable[[], object], *, rounds: int) -> Pair:
    """Warm both up once, then time `rounds` pairs."""
    first()
    second()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, call in zip(seconds, (first, second), strict=True):
            started = time.perf_counter()
            call()
            side.append(time.perf_counter() - started)
    return Pair(name, *seconds)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
