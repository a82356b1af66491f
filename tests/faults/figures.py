"""How large a fault test is, short or long (ORCH_FAULTS=long, as `make faults` sets it), and what it measured."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

IS_LONG = os.environ.get("ORCH_FAULTS") == "long"
SEED = int(os.environ.get("ORCH_FAULTS_SEED", "1"))
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def size(short: int, long: int) -> int:
    """The one number that makes a test short or long."""
    return long if IS_LONG else short


@dataclass(frozen=True)
class Figure:
    """What one test measured, and how long that took."""

    test: str
    promise: str
    figure: str
    seconds: float
    seed: int = SEED


def write(figures: list[Figure]) -> Path:
    """Put the figures into the day's file, in the place of older ones of the same tests."""
    path = RESULTS / f"faults-{time.strftime('%Y-%m-%d')}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else []
    measured = {figure.test for figure in figures}
    rows = [row for row in known if row["test"] not in measured] + [asdict(figure) for figure in figures]
    gigabytes = round(psutil.virtual_memory().total / 2**30)
    document = {
        "command": "make faults",
        "machine": f"{os.cpu_count()} cores, {gigabytes} GB, {platform.system()}, Python {sys.version.split()[0]}",
        "figures": sorted(rows, key=lambda row: str(row["test"])),
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
