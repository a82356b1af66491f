"""Rows of recipes and seeds as one Markdown table: mean ± spread over seeds, the best of each column in bold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.experiments.measuring import Row, mean_and_spread
from tests.experiments.plans import CONTROLS, MASKED_LM, NO_TEACHER, UNTRAINED

_TITLES = {
    "teacher": "*teacher*",
    NO_TEACHER: "*no teacher*: masked LM from random weights",
    MASKED_LM: "*no teacher*: masked LM from the copied layers",
    UNTRAINED: "*untrained*: the copied layers",
}


@dataclass(frozen=True)
class _Column:
    title: str
    value: Callable[[Row], float | None]
    form: Callable[[float], str]
    best: Callable[[Iterable[float]], float] | None = None


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


_COLUMNS = (
    _Column("accuracy, %", lambda row: row.accuracy, _percent, max),
    _Column("bits/char", lambda row: row.bits_per_character, "{:.3f}".format, min),
    _Column("agreement, %", lambda row: row.agreement, _percent, max),
    _Column("KL, nats", lambda row: row.kl, "{:.2f}".format, min),
    _Column("retrieval, last layer, %", lambda row: row.retrieval_last, _percent, max),
    _Column("best layer, %", lambda row: row.retrieval_best, _percent, max),
    _Column("tokens/s", lambda row: row.tokens_per_second, "{:.0f}".format, max),
    _Column("signal bytes/token", lambda row: row.signal_bytes_per_token, "{:.0f}".format),
)


def markdown(rows: Sequence[Row]) -> str:
    """The table, and under it what every recipe's own terms did."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row.name].append(row)
    # With its runs: controls first, then the recipes by held-out bits per character.
    controls = [name for name in ("teacher", *CONTROLS) if name in by_name]
    recipes = [name for name in by_name if name not in controls]
    recipes.sort(key=lambda name: _mean(by_name[name], _COLUMNS[1]) or float("inf"))
    best = {
        column.title: column.best(found)
        for column in _COLUMNS
        if column.best and (found := [m for name in recipes if (m := _mean(by_name[name], column)) is not None])
    }
    seeds = sorted({row.seed for row in rows})
    lines = [
        f"Seeds {', '.join(map(str, seeds))}: mean ± standard deviation over seeds; the best recipe in bold.",
        "",
        "| recipe | " + " | ".join(column.title for column in _COLUMNS) + " | own terms that fell |",
        "|---" * (len(_COLUMNS) + 2) + "|",
    ]
    for name in [*controls, *recipes]:
        cells = [
            _cell(by_name[name], column, None if name in controls else best.get(column.title)) for column in _COLUMNS
        ]
        lines.append(f"| {_TITLES.get(name, name)} | " + " | ".join(cells) + f" | {_fell(by_name[name])} |")
    lines += ["", "Raw value of every term, first → last tenth of its phase, mean over seeds:", ""]
    lines += [f"- {name}: {_terms(by_name[name])}" for name in [*controls, *recipes] if by_name[name][0].terms]
    return "\n".join(lines) + "\n"


def _values(rows: Sequence[Row], column: _Column) -> list[float]:
    return [value for row in rows if (value := column.value(row)) is not None]


def _mean(rows: Sequence[Row], column: _Column) -> float | None:
    values = _values(rows, column)
    return mean_and_spread(values)[0] if values else None


def _cell(rows: Sequence[Row], column: _Column, best: float | None) -> str:
    values = _values(rows, column)
    if not values:
        return "–"
    mean, spread = mean_and_spread(values)
    shown = column.form(mean)
    bold = f"**{shown}**" if best is not None and column.form(best) == shown else shown
    layers = sorted({row.best_layer for row in rows if row.best_layer is not None})
    layer = f" (layer {'/'.join(map(str, layers))})" if column.title.startswith("best layer") else ""
    return f"{bold} ± {column.form(spread)}{layer}"


def _fell(rows: Sequence[Row]) -> str:
    counted = [row.fell for row in rows if row.terms]
    return f"{sum(fell for fell, _ in counted)} of {sum(of for _, of in counted)}" if counted else "–"


def _terms(rows: Sequence[Row]) -> str:
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        for name, ends in row.terms.items():
            found[name].append(ends)
    parts = []
    for name, pairs in found.items():
        first = mean_and_spread([before for before, _ in pairs])[0]
        last = mean_and_spread([after for _, after in pairs])[0]
        parts.append(f"{name.removeprefix('all/')} {first:.4g} → {last:.4g}")
    return "; ".join(parts)
