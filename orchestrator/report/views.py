"""Metric rows and training logs made into what the page shows: verdicts, plots, heat maps, tables.

Shape legend: S logged steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean, median

import numpy as np
import numpy.typing as npt

from orchestrator.config.setups import BASELINE_SUFFIX
from orchestrator.records import MetricRow
from orchestrator.report.data import DataFile
from orchestrator.report.drawing import Colour, Dot, Line, Shape, dot_plot, line_plot
from orchestrator.report.headline import AlignmentRow, Figures, HeadlineRow, Role, group_of, order, short_name
from orchestrator.report.reading import TrainingLog

_NUM_SERIES = 8
_DRAWN_POINTS = 300
_TEACHER_COLOURS: tuple[Colour, ...] = ("teacher", "ink", "muted")
_SHAPES: dict[Role, Shape] = {"teacher": "diamond", "student": "disc", "baseline": "ring"}
_ROLE_PHRASES: dict[Role, str] = {
    "teacher": "teacher",
    "student": "student",
    "baseline": "same student without a teacher",
}


@dataclass(frozen=True)
class Verdict:
    """What became of the students of one setup, in a few figures; None where there is nothing to compare with."""

    group: str
    num_students: int
    languages: tuple[str, ...]
    accuracy: float
    kept: float | None  # share of the teacher's accuracy
    gain: float | None  # accuracy above the same students without a teacher
    agreement: float | None
    csls: float | None
    teacher_csls: float | None
    chance: float | None

    @property
    def baseline_kept(self) -> float | None:
        """Share of the teacher's accuracy that the students without a teacher reach."""
        if self.kept is None or self.gain is None or self.accuracy == 0:
            return None
        return self.kept * (self.accuracy - self.gain) / self.accuracy


@dataclass(frozen=True)
class LegendEntry:
    """A word beside a sample of its line or dot; `style` is solid, dashed, disc, ring, diamond or dotted."""

    label: str
    colour: Colour
    style: str


@dataclass(frozen=True)
class Panel:
    """One plot with its numbers."""

    title: str
    svg: str
    data: DataFile
    legend: tuple[LegendEntry, ...] = ()


@dataclass(frozen=True)
class PanelRow:
    """Plots that share a legend."""

    title: str
    legend: tuple[LegendEntry, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class HeatMap:
    """Retrieval from each language (row) to each other (column) at a system's last layer; None on the diagonal."""

    name: str
    role: Role
    source: str
    layer: int
    languages: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    data: DataFile


@dataclass(frozen=True)
class Cost:
    """What one student's training took."""

    setup: str
    student: str
    steps: int
    tokens: int
    tokens_per_second: float
    data_wait_share: float
    seconds: float


def verdicts(rows: Sequence[HeadlineRow], alignments: Sequence[AlignmentRow]) -> list[Verdict]:
    """One per setup that has students; teachers and baselines are those that met the same masked positions."""
    groups: dict[str, list[HeadlineRow]] = defaultdict(list)
    for row in rows:
        if row.role == "student" and row.figures.accuracy is not None:
            groups[group_of(row.model)].append(row)
    made = []
    for group, students in groups.items():
        own = [a for a in alignments if a.role == "student" and group_of(a.model) == group]
        teachers = [a for a in alignments if a.role == "teacher" and a.source in {o.source for o in own}]
        made.append(
            Verdict(
                group=group,
                num_students=len({row.model for row in students}),
                languages=tuple(dict.fromkeys(row.language for row in students)),
                accuracy=fmean(_accuracy(row) for row in students),
                kept=_against(students, [row for row in rows if row.role == "teacher"], ratio=True),
                gain=_against(
                    students, [r for r in rows if r.role == "baseline" and group_of(r.model) == group], ratio=False
                ),
                agreement=_mean([row.figures.agreement for row in students]),
                csls=_mean([a.csls for a in own]),
                teacher_csls=_mean([a.csls for a in teachers]),
                chance=_mean([a.chance for a in own]),
            )
        )
    return made


def accuracy_panels(rows: Sequence[HeadlineRow]) -> PanelRow | None:
    """A dot plot of accuracy and one of bits per character per setup; None without students and baselines."""
    panels = []
    groups = list(dict.fromkeys(group_of(row.model) for row in rows if row.role != "teacher"))
    for group in groups:
        for name, words in (
            ("accuracy", "masked words found"),
            ("bits_per_character", "bits per character, less is better"),
        ):
            shown = [row for row in _with_teachers(rows, group) if getattr(row.figures, name) is not None]
            if not shown:
                continue
            languages = list(dict.fromkeys(row.language for row in shown))
            dots = [
                Dot(languages.index(row.language), getattr(row.figures, name), row.role, _SHAPES[row.role])
                for row in shown
            ]
            data = DataFile(
                f"{name} {group}",
                ["language", "model", "role", name],
                [[row.language, row.model, row.role, getattr(row.figures, name)] for row in shown],
            )
            panels.append(Panel(f"{group}: {words}", dot_plot(languages, dots, x_percent=name == "accuracy"), data))
    roles = {row.role for row in rows}
    legend = tuple(LegendEntry(words, role, _SHAPES[role]) for role, words in _ROLE_PHRASES.items() if role in roles)
    return PanelRow("", legend, tuple(panels)) if panels else None


def heat_maps(rows: Sequence[MetricRow]) -> list[HeatMap]:
    """CSLS retrieval at the last layer of every system on every source with three languages or more."""
    found: dict[tuple[str, str], list[MetricRow]] = defaultdict(list)
    for row in rows:
        if row.metric == "retrieval_csls" and row.other_language is not None and row.layer is not None:
            found[row.split.removeprefix("parallel:"), row.model].append(row)
    maps = []
    for (source, model), measured in found.items():
        languages = tuple(dict.fromkeys(code for row in measured for code in (row.language, str(row.other_language))))
        if len(languages) < 3:
            continue
        last = max(row.layer for row in measured if row.layer is not None)
        values = {(row.language, row.other_language): row.value for row in measured if row.layer == last}
        cells = tuple(tuple(values.get((here, there)) for there in languages) for here in languages)
        data = DataFile(
            f"retrieval {source} {model}",
            ["from", "to", "layer", "csls"],
            [[here, str(there), last, value] for (here, there), value in values.items()],
        )
        maps.append(HeatMap(short_name(model), measured[0].role, source, last, languages, cells, data))
    return maps


def layer_curves(rows: Sequence[MetricRow]) -> list[Panel]:
    """Retrieval by depth, a panel per parallel source, a line per system: means over pairs and directions."""
    sources: dict[str, dict[str, list[MetricRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.metric == "retrieval_csls" and row.layer is not None:
            sources[row.split.removeprefix("parallel:")][row.model].append(row)
    looks = _looks({model: own[0].role for measured in sources.values() for model, own in measured.items()})
    panels = []
    for source, measured in sources.items():
        lines: list[Line] = []
        table: list[tuple[str, int, float]] = []
        entries: list[LegendEntry] = []
        for model, own in sorted(measured.items(), key=lambda item: order(item[1][0].role, item[0])):
            layers = sorted({row.layer for row in own if row.layer is not None})
            if len(layers) < 2:
                continue
            curve = [fmean(row.value for row in own if row.layer == layer) for layer in layers]
            entry = looks[model]
            depth = np.array(layers) / layers[-1]
            lines.append(Line(depth, np.array(curve), entry.colour, dashed=entry.style == "dashed", markers=True))
            table += [(model, layer, value) for layer, value in zip(layers, curve, strict=True)]
            entries.append(entry)
        if lines:
            chance = [r.value for r in rows if r.metric == "retrieval_chance" and r.split == f"parallel:{source}"]
            svg = line_plot(
                lines,
                x_label="depth of the layer",
                y_percent=True,
                dotted_at=_mean(chance),
                x_ticks=((0.0, "first"), (0.5, "middle"), (1.0, "last")),
            )
            entries.append(LegendEntry("chance", "muted", "dotted"))
            data = DataFile(f"layers {source}", ["system", "layer", "csls"], table)
            panels.append(Panel(f"{source}: translations found, layer by layer", svg, data, tuple(entries)))
    return panels


def learning_curves(logs: Sequence[TrainingLog]) -> list[PanelRow]:
    """For each setup the raw value of every objective over the steps, a line per student."""
    setups: dict[str, list[TrainingLog]] = defaultdict(list)
    for log in sorted(logs, key=lambda log: order("student", f"{log.setup}/{log.student}")):
        setups[log.setup].append(log)
    made = []
    for setup, members in setups.items():
        looks = _looks(
            {log.student: "baseline" if log.student.endswith(BASELINE_SUFFIX) else "student" for log in members}
        )
        panels = []
        for term in dict.fromkeys(name for log in members for name in log.terms):
            chosen = [log for log in members if term in log.terms]
            lines = [_learning_line(log, term, looks[log.student]) for log in chosen]
            table = [
                (log.student, int(step), float(value))
                for log in chosen
                for step, value in zip(log.steps, log.terms[term], strict=True)
            ]
            data = DataFile(f"learning {setup} {term}", ["student", "step", term], table)
            panels.append(Panel(term, line_plot(lines, x_label="step"), data))
        made.append(PanelRow(setup, tuple(looks.values()), tuple(panels)))
    return made


def _learning_line(log: TrainingLog, term: str, look: LegendEntry) -> Line:
    drawn = np.unique(np.linspace(0, len(log.steps) - 1, _DRAWN_POINTS).astype(int))  # all when there are few
    smooth, raw = _smooth(log.terms[term])[drawn], log.terms[term][drawn]
    return Line(log.steps[drawn].astype(np.float64), smooth, look.colour, dashed=look.style == "dashed", raw=raw)


def costs(logs: Sequence[TrainingLog]) -> list[Cost]:
    """One row per student."""
    return [
        Cost(
            setup=log.setup,
            student=log.student,
            steps=int(log.steps[-1]),
            tokens=int(log.tokens[-1]),
            tokens_per_second=median(log.tokens_per_second.tolist()),
            data_wait_share=fmean(log.data_wait_share.tolist()),
            seconds=log.seconds,
        )
        for log in sorted(logs, key=lambda log: order("student", f"{log.setup}/{log.student}"))
    ]


def headline_data(rows: Sequence[HeadlineRow]) -> DataFile:
    """The headline table as a file."""
    names = [field.name for field in fields(Figures)]
    return DataFile(
        "headline",
        ["language", "model", "role", *names, "masked_tokens"],
        [[row.language, row.model, row.role, *(getattr(row.figures, n) for n in names), row.tokens] for row in rows],
    )


def _accuracy(row: HeadlineRow) -> float:
    assert row.figures.accuracy is not None
    return row.figures.accuracy


def _against(students: Sequence[HeadlineRow], others: Sequence[HeadlineRow], *, ratio: bool) -> float | None:
    """Mean accuracy of the students over, or minus, that of others at the same masked positions, if any."""
    accuracy = {(o.language, o.tokens): o.figures.accuracy for o in reversed(others) if o.figures.accuracy is not None}
    pairs = [(_accuracy(s), accuracy[s.language, s.tokens]) for s in students if (s.language, s.tokens) in accuracy]
    if not pairs:
        return None
    own, other = fmean(a for a, _ in pairs), fmean(b for _, b in pairs)
    if not ratio:
        return own - other
    return own / other if other > 0 else None


def _with_teachers(rows: Sequence[HeadlineRow], group: str) -> list[HeadlineRow]:
    own = [row for row in rows if row.role != "teacher" and group_of(row.model) == group]
    met = {(row.language, row.tokens) for row in own}
    return [row for row in rows if row in own or (row.role == "teacher" and (row.language, row.tokens) in met)]


def _looks(roles: dict[str, Role]) -> dict[str, LegendEntry]:
    """A colour for every student, its no-teacher twin in the same one but dashed, and neutral ones for teachers."""
    looks: dict[str, LegendEntry] = {}
    colours: dict[str, Colour] = {}
    num_teachers = 0
    for name, role in roles.items():
        if role == "teacher":
            looks[name] = LegendEntry(name, _TEACHER_COLOURS[num_teachers % len(_TEACHER_COLOURS)], "solid")
            num_teachers += 1
            continue
        twin = short_name(name)
        colour = colours.setdefault(twin, f"series-{len(colours) % _NUM_SERIES}")
        if role == "baseline":
            looks[name] = LegendEntry(f"{twin}, no teacher", colour, "dashed")
        else:
            looks[name] = LegendEntry(name, colour, "solid")
    return looks


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over a window of a twentieth of the curve, shorter at its ends; NaN counts for nothing."""
    half = len(values) // 40
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    number = counts[last] - counts[first]
    means = np.full(len(values), np.nan)
    np.divide(sums[last] - sums[first], number, out=means, where=number > 0)
    return means
