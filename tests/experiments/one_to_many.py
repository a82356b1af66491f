"""The tables of docs/experiments/one-to-many from the figures of its sweep:

python -m tests.experiments.one_to_many docs/experiments/one-to-many/figures.jsonl

Each line of figures.jsonl is one cell, seed, measure and unit, as `orch sweep` writes it under its root's report/.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TypeAlias

from orchestrator.sweep.comparing import paired_difference

#: seed -> unit -> value
Values: TypeAlias = dict[int, dict[str, float]]

REFERENCE = "monoshot"
QUESTIONS = (
    ("(a) what is distilled", ("soft", "soft-hidden", "soft-hidden-attention", REFERENCE)),
    ("(b) which layers", (REFERENCE, "top", "bottom", "last")),
    ("(c) one embedding matrix, or one each; tied output", (REFERENCE, "own-embedding", "untied")),
    ("(d) started from the teacher", (REFERENCE, "random-start")),
    ("(e) one language, two, four", (REFERENCE, "bilingual", "multilingual")),
    ("alignment on purpose", (REFERENCE, "sentence-mse", "sentence-contrastive", "own-embedding", "anchors")),
    (
        "baselines",
        (REFERENCE, "no-teacher", "no-teacher-time", "same-start", "untrained", "trimmed-teacher", "teacher"),
    ),
)


@dataclass(frozen=True)
class Column:
    """A measure, or the units of it that begin with `units`; `sign` 1 where more is better, -1 where less is."""

    title: str
    measure: str
    form: Callable[[float], str]
    sign: int
    units: str = ""

    def of(self, values: Mapping[str, Values]) -> Values:
        """seed -> unit -> value."""
        return {
            seed: {unit: value for unit, value in own.items() if unit.startswith(self.units)}
            for seed, own in values.get(self.measure, {}).items()
        }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


COLUMNS = (
    Column("accuracy, %", "accuracy", _percent, 1),
    Column("bits/char", "bits_per_character", "{:.3f}".format, -1),
    Column("agreement, %", "agreement", _percent, 1),
    Column("KL, nats", "kl", "{:.2f}".format, -1),
    Column("Tatoeba, %", "retrieval", _percent, 1, "tatoeba"),
    Column("NTREX, %", "retrieval", _percent, 1, "news"),
    Column("Bible, %", "retrieval", _percent, 1, "bible"),
    Column("CKA", "cka", "{:.2f}".format, 1),
    Column("neurons", "neuron_correlation", "{:.2f}".format, 1),
    Column("head swap, %", "head_swap", _percent, 1),
)


def tables(figures: Sequence[Mapping[str, object]]) -> str:
    """One Markdown table per question: mean ± standard deviation over seeds; a star where 0 is outside the interval."""
    cells: dict[str, dict[str, Values]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for row in figures:
        value = row["value"]
        assert isinstance(value, int | float)
        cells[str(row["cell"])][str(row["measure"])][int(str(row["seed"]))][str(row["unit"])] = float(value)
    columns = [column for column in COLUMNS if any(any(column.of(own).values()) for own in cells.values())]
    lines = []
    for question, names in QUESTIONS:
        there = [name for name in names if name in cells]
        lines += [f"**{question}**", "", "| | " + " | ".join(column.title for column in columns) + " |"]
        lines.append("|---|" + "---|" * len(columns))
        best = {column.title: _best(column, there, cells) for column in columns}
        for name in there:
            texts = [_text(column, name, cells, is_best=best[column.title] == name) for column in columns]
            lines.append(f"| {name} | " + " | ".join(texts) + " |")
        lines.append("")
    return "\n".join(lines)


def _best(column: Column, names: Sequence[str], cells: Mapping[str, Mapping[str, Values]]) -> str | None:
    means = {name: fmean(found) for name in names if name != "teacher" and (found := _means(column.of(cells[name])))}
    return max(means, key=lambda name: column.sign * means[name]) if means else None


def _means(values: Values) -> list[float]:
    return [fmean(units.values()) for units in values.values() if units]


def _text(column: Column, name: str, cells: Mapping[str, Mapping[str, Values]], *, is_best: bool) -> str:
    own = column.of(cells[name])
    means = _means(own)
    if not means:
        return ""
    spread = f" ± {column.form(stdev(means))}" if len(means) > 1 and name != "teacher" else ""
    gap = paired_difference(own, column.of(cells[REFERENCE])) if name not in (REFERENCE, "teacher") else None
    clear = gap is not None and gap.is_clear
    text = f"{column.form(fmean(means))}{spread}"
    return (f"**{text}**" if is_best else text) + ("*" if clear else "")


def _read(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    print(tables(_read(sys.argv[1])))
