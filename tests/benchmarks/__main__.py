"""`make bench`: every bar, in pairs, as a table; `--only teacher --only step` for some, `--json FILE` to keep them."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from dataclasses import asdict, fields
from pathlib import Path

from tests.benchmarks.bars import HEAD, Bar
from tests.benchmarks.pairs import machine

PARTS = ("reading", "teacher", "step", "peers", "passes", "workers", "commands", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=PARTS, help="these parts alone")
    parser.add_argument("--json", type=Path, help="where to keep the figures; those of other parts stay in it")
    parser.add_argument("--show", action="store_true", help="print what --json holds, and measure nothing")
    arguments = parser.parse_args()
    kept = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    if not arguments.show:
        print(" · ".join(f"{name} {value}" for name, value in machine().items()))
    print(HEAD, flush=True)
    started, found = time.monotonic(), list[Bar]()
    for part in arguments.only or PARTS:
        if arguments.show:
            names = [field.name for field in fields(Bar)]
            bars = [Bar(**{name: row[name] for name in names}) for row in kept.get(part, {}).get("bars", [])]
            print(*(bar.row() for bar in bars), sep="\n")
            found += bars
            continue
        facts, bars = machine(), []
        for bar in importlib.import_module(f"tests.benchmarks.{part}").bars(arguments.rounds):
            print(bar.row(), flush=True)
            bars.append(bar)
        found += bars
        kept[part] = {"machine": facts, "bars": [_as_json(bar) for bar in bars]}
        if arguments.json is not None:
            in_order = {name: kept[name] for name in PARTS if name in kept}
            arguments.json.write_text(json.dumps(in_order, indent=1, ensure_ascii=False) + "\n")
    print(f"{sum(not bar.is_reached for bar in found)} of {len(found)} not reached; {time.monotonic() - started:.0f} s")


def _as_json(bar: Bar) -> dict[str, object]:
    return asdict(bar) | {"median": bar.median, "reached": bar.is_reached}


if __name__ == "__main__":
    main()
