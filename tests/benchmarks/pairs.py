"""Timing in pairs: all sides in turn in one run, so that a ratio holds when the machine's speed drifts."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import torch
import transformers


def seconds_of(*sides: Callable[[], object], rounds: int) -> list[list[float]]:
    """Seconds of each side in each round, the sides in turn, after each was called once to warm up."""
    for side in sides:
        side()
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for own, side in zip(seconds, sides, strict=True):
            started = time.perf_counter()
            side()
            own.append(time.perf_counter() - started)
    return seconds


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """first / second, round by round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": model[0].partition(": ")[2] if model else platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "pyarrow": pyarrow.__version__,
    }
