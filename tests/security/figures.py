"""How large a test of security is, short or long (ORCH_FUZZ=long, as `make fuzz` sets it), and what it measured."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path

IS_LONG = os.environ.get("ORCH_FUZZ") == "long"
SEED = int(os.environ.get("ORCH_FUZZ_SEED", "1"))
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"

#: What one test measured, by its name.
measured: dict[str, dict[str, object]] = {}


def size(short: int, long: int) -> int:
    """The one number that makes a test short or long."""
    return long if IS_LONG else short


def write() -> Path:
    """Put the figures into the day's file, in the place of older ones of the same tests."""
    path = RESULTS / f"fuzz-{time.strftime('%Y-%m-%d')}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else {}
    document = {
        "command": "make fuzz",
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {sys.version.split()[0]}",
        "seed": SEED,
        "figures": dict(sorted({**known, **measured}.items())),
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
