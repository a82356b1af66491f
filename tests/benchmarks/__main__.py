"""`make bench`: every bar, in pairs, as a table; `--only teacher --only step` for some, `--json FILE` to keep them."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tests.benchmarks.bars import CURVES_HEAD, HEAD, Bar, curve_rows
from tests.benchmarks.drawing import draw
from tests.benchmarks.pairs import machine

PARTS = ("reading", "teacher", "step", "peers", "passes", "workers", "commands", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=PARTS, help="these parts alone")
    parser.add_argument("--json", type=Path, help="where to keep the figures; those of other parts stay in it")
    parser.add_argument("--show", action="store_true", help="print what --json holds, and measure nothing")
    parser.add_argument("--draw", type=Path, help="where to draw how cost grows, as SVG")
    arguments = parser.parse_args()
    if arguments.show and not (arguments.json and arguments.json.exists()):
        parser.error("--show needs a file of figures: --json FILE")
    parts = arguments.only or PARTS
    bars = _kept(arguments.json, parts) if arguments.show else _measured(parts, arguments.rounds, arguments.json)
    started, found = time.monotonic(), list[Bar]()
    if not arguments.show:
        print(" · ".join(f"{name} {value}" for name, value in machine().items()))
    print(HEAD, flush=True)
    for bar in bars:
        found.append(bar)
        if bar.at is None or not arguments.show:
            print(bar.row(), flush=True)
    if points := [bar for bar in found if bar.at is not None]:
        print("", CURVES_HEAD, *curve_rows(points), "", sep="\n")
        if arguments.draw is not None:
            draw(points, arguments.draw)
    print(f"{sum(not bar.is_reached for bar in found)} of {len(found)} not reached; {time.monotonic() - started:.0f} s")


def _kept(path: Path, parts: Sequence[str]) -> Iterator[Bar]:
    kept = json.loads(path.read_text())
    for part in parts:
        for row in kept.get(part, {}).get("bars", []):
            yield Bar(**{field.name: row[field.name] for field in fields(Bar)})


def _measured(parts: Sequence[str], rounds: int, path: Path | None) -> Iterator[Bar]:
    """Each bar as it comes; the figures of a part replace those that `path` has of it, once the part is through."""
    kept = json.loads(path.read_text()) if path is not None and path.exists() else {}
    for part in parts:
        facts, rows = machine(), []
        for bar in importlib.import_module(f"tests.benchmarks.{part}").bars(rounds):
            rows.append(asdict(bar) | {"median": bar.median, "reached": bar.is_reached})
            yield bar
        kept[part] = {"machine": facts, "bars": rows}
        if path is not None:
            in_order = {name: kept[name] for name in PARTS if name in kept}
            path.write_text(json.dumps(in_order, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
