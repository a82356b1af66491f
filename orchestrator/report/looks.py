"""How one model looks in every plot: its colour, its line, its dot; and what plots consist of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.report.data import DataFile
from orchestrator.report.drawing import Colour, Shape
from orchestrator.report.headline import Role, short_name

_NUM_SERIES = 8
_TEACHER_COLOURS: tuple[Colour, ...] = ("teacher", "ink", "muted")
SHAPES: dict[Role, Shape] = {"teacher": "diamond", "student": "disc", "baseline": "ring"}
_ROLE_PHRASES: dict[Role, str] = {
    "teacher": "teacher",
    "student": "student",
    "baseline": "same student without a teacher",
}


@dataclass(frozen=True)
class LegendEntry:
    """A word beside a sample of its line or dot; `style` is solid, dashed, disc, ring, diamond or dotted."""

    label: str
    colour: Colour
    style: str


@dataclass(frozen=True)
class Panel:
    """One plot with its numbers; `note` is a line under its title."""

    title: str
    svg: str
    data: DataFile
    legend: tuple[LegendEntry, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class PanelRow:
    """Plots that share a legend."""

    title: str
    legend: tuple[LegendEntry, ...]
    panels: tuple[Panel, ...]


def series(number: int) -> Colour:
    """A colour of the palette, which begins anew after its last."""
    return f"series-{number % _NUM_SERIES}"


def role_legend(roles: Iterable[Role]) -> tuple[LegendEntry, ...]:
    """The dots of those roles that are there."""
    there = set(roles)
    return tuple(LegendEntry(words, role, SHAPES[role]) for role, words in _ROLE_PHRASES.items() if role in there)


def line_looks(roles: Mapping[str, Role]) -> dict[str, LegendEntry]:
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
        colour = colours.setdefault(twin, series(len(colours)))
        if role == "baseline":
            looks[name] = LegendEntry(f"{twin}, no teacher", colour, "dashed")
        else:
            looks[name] = LegendEntry(name, colour, "solid")
    return looks


def mean(values: Sequence[float | None]) -> float | None:
    """Of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
