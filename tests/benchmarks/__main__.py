"""`make bench`: every bar, in pairs, into a Markdown table and a JSON file; `--only teacher --only step` for some."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.bars import HEAD, Bar
from tests.benchmarks.pairs import machine

PARTS = ("teacher", "step", "peers", "reading", "whole", "commands", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=PARTS, help="these parts alone")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    arguments = parser.parse_args()
    facts, found = machine(), []
    print(" · ".join(f"{name} {value}" for name, value in facts.items()))
    print(HEAD, flush=True)
    started = time.monotonic()
    for part in arguments.only or PARTS:
        bars: list[Bar] = []
        for bar in importlib.import_module(f"tests.benchmarks.{part}").bars(arguments.rounds):
            print(bar.row(), flush=True)
            bars.append(bar)
            found.append({"part": part} | asdict(bar) | {"median": bar.median, "reached": bar.is_reached})
            if arguments.json is not None:
                arguments.json.write_text(json.dumps({"machine": facts, "bars": found}, indent=1, ensure_ascii=False))
    print(f"{sum(not bar['reached'] for bar in found)} of {len(found)} not reached; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
