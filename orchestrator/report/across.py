"""What systems have in common across languages: heat maps of pairs of languages, curves over the layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from orchestrator.records import MetricRow
from orchestrator.report.data import DataFile
from orchestrator.report.drawing import Line, line_plot
from orchestrator.report.headline import Role, order, short_name
from orchestrator.report.looks import LegendEntry, Panel, PanelRow, line_looks, mean


@dataclass(frozen=True)
class HeatMap:
    """A share for each language (row) and each other (column); None where nothing was measured."""

    name: str
    role: Role
    note: str
    languages: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    mean: float  # of what lies off the diagonal
    chance: float | None
    data: DataFile


@dataclass(frozen=True)
class HeatMapRow:
    """Heat maps of several systems that measure the same, to be seen side by side."""

    title: str
    down: str  # what the rows are
    along: str  # what the columns are
    maps: tuple[HeatMap, ...]


@dataclass(frozen=True)
class _Pairs:
    """A metric of pairs of languages by layer, and the metric of the same rows that says what nothing would give."""

    metric: str
    title: str
    is_share: bool
    floor: str
    floor_words: str


@dataclass(frozen=True)
class _Map:
    """A share that has a direction: what the rows (`language`) and the columns (`other_language`) are."""

    metric: str
    chance: str
    title: str
    name: str
    down: str
    along: str


_CURVES = (
    _Pairs("retrieval_csls", "translations found", True, "retrieval_chance", "chance"),
    _Pairs("cka", "similarity of the spaces (CKA)", False, "cka_shuffled", "shuffled pairs"),
    _Pairs("neuron_correlation", "correlation of neurons", False, "neuron_correlation_shuffled", "shuffled pairs"),
    _Pairs("head_swap_accuracy", "right with another language’s head", True, "head_swap_chance", "chance"),
)
_MAPS = (
    _Map("retrieval_csls", "retrieval_chance", "Translations found", "retrieval", "query", "searched"),
    _Map("head_swap_accuracy", "head_swap_chance", "Heads exchanged", "head swap", "fitted on", "tested on"),
)


def heat_maps(rows: Sequence[MetricRow]) -> list[HeatMapRow]:
    """Retrieval by CSLS, and heads of a probe exchanged, at the last layer: maps of all systems for each source."""
    made = []
    for kind in _MAPS:
        found: dict[str, dict[str, list[MetricRow]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row.metric == kind.metric and row.other_language is not None:
                found[row.split][row.model].append(row)
        for split, systems in found.items():
            chance = _mean_of(rows, split, kind.chance)
            maps = [_heat_map(model, measured, kind, split, chance) for model, measured in systems.items()]
            maps.sort(key=lambda one: order(one.role, one.name))
            made.append(HeatMapRow(f"{kind.title}: {_source(split)}", kind.down, kind.along, tuple(maps)))
    return made


def _source(split: str) -> str:
    """The name of the text in `parallel:name` and `probe:name`."""
    return split.partition(":")[2] or split


def _mean_of(rows: Sequence[MetricRow], split: str, metric: str) -> float | None:
    """Over pairs of different languages, and layers."""
    return mean([r.value for r in rows if (r.split, r.metric) == (split, metric) and r.language != r.other_language])


def _heat_map(model: str, measured: Sequence[MetricRow], kind: _Map, split: str, chance: float | None) -> HeatMap:
    last = max((row.layer for row in measured if row.layer is not None), default=None)
    values = {(row.language, str(row.other_language)): row.value for row in measured if row.layer == last}
    languages = tuple(dict.fromkeys(code for pair in values for code in pair))
    return HeatMap(
        name=short_name(model),
        role=measured[0].role,
        note="" if last is None else f"layer {last}",
        languages=languages,
        cells=tuple(tuple(values.get((here, there)) for there in languages) for here in languages),
        mean=fmean([value for (here, there), value in values.items() if here != there] or values.values()),
        chance=chance,
        data=DataFile(
            f"{kind.name} {_source(split)} {model}",
            (kind.down, kind.along, "layer", kind.metric),
            [(here, there, last, value) for (here, there), value in values.items()],
        ),
    )


def layer_curves(rows: Sequence[MetricRow]) -> list[PanelRow]:
    """Every metric of pairs of languages by depth: for each source a panel of each metric, a line for each system."""
    metrics = {one.metric for one in _CURVES}
    layered = [r for r in rows if r.layer is not None and r.metric in metrics and r.language != r.other_language]
    roles = {row.model: row.role for row in layered}
    looks = line_looks({model: roles[model] for model in sorted(roles, key=lambda name: order(roles[name], name))})
    made = []
    for split in dict.fromkeys(row.split for row in layered):
        panels = []
        for curve in _CURVES:
            own = [row for row in layered if row.split == split and row.metric == curve.metric]
            panel = _curve_panel(_source(split), curve, own, _mean_of(rows, split, curve.floor), looks)
            panels += [panel] if panel is not None else []
        if panels:
            made.append(PanelRow(_source(split), (), tuple(panels)))
    return made


def _curve_panel(
    source: str, curve: _Pairs, rows: Sequence[MetricRow], floor: float | None, looks: dict[str, LegendEntry]
) -> Panel | None:
    by_model: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        assert row.layer is not None
        by_model[row.model][row.layer].append(row.value)
    lines, table, entries, words = [], [], [], []
    for model, look in looks.items():
        layers = sorted(by_model[model]) if model in by_model else []
        if len(layers) < 2:
            continue
        means = [fmean(by_model[model][layer]) for layer in layers]
        depth = np.array(layers) / layers[-1]
        lines.append(Line(depth, np.array(means), look.colour, dashed=look.style == "dashed", markers=True))
        table += [(model, layer, value) for layer, value in zip(layers, means, strict=True)]
        entries.append(look)
        words.append(f"{look.label} {means[0]:.2f} at layer {layers[0]}, {means[-1]:.2f} at layer {layers[-1]}")
    if not lines:
        return None
    if floor is not None:
        entries.append(LegendEntry(curve.floor_words, "muted", "dotted"))
    return Panel(
        title=f"{source}: {curve.title}, layer by layer",
        svg=line_plot(
            lines,
            alt=f"{curve.title} by depth of the layer, on {source}. {'; '.join(words)}.",
            x_label="depth: 0 the embedding, 1 the last layer",
            y_percent=curve.is_share,
            y_from_zero=not curve.is_share,
            dotted_at=floor,
            x_ticks=((0.0, "0"), (0.5, "½"), (1.0, "1")),
        ),
        data=DataFile(f"layers {source} {curve.metric}", ["system", "layer", curve.metric], table),
        legend=tuple(entries),
    )
