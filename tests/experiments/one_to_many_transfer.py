"""The tables of transfer of docs/experiments/one-to-many, one per task: mode × language, mean ± deviation over seeds.

python -m tests.experiments.one_to_many_transfer --collect runs/one-to-many > FILE
python -m tests.experiments.one_to_many_transfer FILE

A line of FILE, docs/experiments/one-to-many/transfer.jsonl, is one figure: the sweep's cell and seed, and what its
transfer/metrics.jsonl says.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

#: Of each task, the figure that the field quotes.
METRICS = {"pos": "accuracy", "topic": "accuracy", "ner": "entity_f1"}
_KEPT = ("model", "task", "mode", "language", "metric", "value", "n")

Row = Mapping[str, object]


def collect(root: Path) -> Iterator[dict[str, object]]:
    """Every figure of every cell and seed below a sweep's root."""
    for path in sorted(root.glob("cells/*/seed-*/transfer/metrics.jsonl")):
        cell, seed = path.parts[-4], int(path.parts[-3].removeprefix("seed-"))
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield {"cell": cell, "seed": seed} | {name: row[name] for name in _KEPT}


def tables(rows: Sequence[Row]) -> str:
    """One Markdown table per task, its modes by their mean over the languages besides English."""
    lines = []
    for task, metric in METRICS.items():
        own = [row for row in rows if row["task"] == task and row["metric"] == metric]
        if own:
            seeds = len({row["seed"] for row in own})
            lines += [
                f"**{task}**, {metric.replace('_', ' ')}, %, {seeds} seeds (one where no deviation stands)",
                "",
                *_table(own),
                "",
            ]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[_name(row)][str(row["language"])].append(100 * float(str(row["value"])))
    languages = sorted({language for own in found.values() for language in own}, key=lambda name: (name != "en", name))
    yield "| | " + " | ".join(languages) + " | mean of the others |"
    yield "|---|" + "---|" * (len(languages) + 1)
    others = [language for language in languages if language != "en"]
    means = {name: fmean(fmean(own[x]) for x in others) for name, own in found.items() if own.keys() >= {*others}}
    best = {x: max(found, key=lambda name: fmean(found[name].get(x, [0.0]))) for x in languages}
    for name in sorted(found, key=lambda name: -means.get(name, 0.0)):
        cells = [_text(found[name].get(x, []), is_best=best[x] == name) for x in languages]
        yield f"| {name} | " + " | ".join(cells) + (f" | {means[name]:.1f} |" if name in means else " | – |")


def _name(row: Row) -> str:
    """`sft`; `multilingual: full-src` of another cell; `teacher: full-src`."""
    if row["model"] == "multilingual":
        return f"teacher: {row['mode']}"
    return str(row["mode"]) if row["cell"] == "monoshot" else f"{row['cell']}: {row['mode']}"


def _text(values: Sequence[float], *, is_best: bool) -> str:
    if not values:
        return "–"
    text = f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
    return f"**{text}**" if is_best else text


if __name__ == "__main__":
    if sys.argv[1] == "--collect":
        for figure in collect(Path(sys.argv[2])):
            print(json.dumps(figure))
    else:
        text = Path(sys.argv[1]).read_text(encoding="utf-8")
        print(tables([json.loads(line) for line in text.splitlines()]))
