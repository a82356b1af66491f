"""A sweep.yaml: what its cells are called, and which values each of them sets in the base configuration."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, field_validator

from orchestrator.config.base import Name, Section, nearest
from orchestrator.config.loading import Setting, parse_section
from orchestrator.config.reading import read_yaml
from orchestrator.errors import ConfigError

Baseline: TypeAlias = Literal[
    "no-teacher", "no-teacher-time", "same-start", "random-start", "untrained", "trimmed-teacher"
]
#: The baseline whose number of steps the times of others decide: of the reference, and of this one.
TIMED: Baseline = "no-teacher-time"
TIMED_BY: Baseline = "no-teacher"

#: The row of the table that no cell may be called as.
TEACHER = "teacher"
#: What a sweep says itself, and what to write in its place.
_OWN = {
    "run.seed": "list seeds under 'seeds'",
    "run.root": "name the folder of the whole sweep under 'root'",
    "run.stores": "leave it out, cells share what they can",
    "signals.mode": "set it in the base, all cells have one mode",
}


class SweepSection(Section):
    """One cell per combination of `grid`, then `cells` and `baselines`; each once per seed.

    `grid`: a dotted key of the configuration (or `recipe`) to its values, as a list, or as names and values. `cells`: a
    name to several keys with one value each. `reference`: the cell that the others are compared with, else the first.
    """

    base: str
    root: str = "runs/sweep"
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    grid: dict[str, list[object] | dict[str, object]] = Field(default_factory=dict)
    cells: dict[Name, dict[str, object]] = Field(default_factory=dict)
    baselines: tuple[Baseline, ...] = ()
    reference: str | None = None

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds


@dataclass(frozen=True)
class Cell:
    """One combination: its name, which is its folder too, and what it sets."""

    name: str
    settings: tuple[Setting, ...]
    baseline: Baseline | None = None

    @property
    def words(self) -> str:
        """What it sets, in one line."""
        return "; ".join(f"{one.key} = {said(one.value)}" for one in self.settings)


def said(value: object) -> str:
    """A value of a configuration in few words: `soft-targets(k 64) + hidden-states(cosine, uniform)`."""
    match value:
        case {"type": kind, **options}:
            named = (said(one) if isinstance(one, str) else f"{key} {said(one)}" for key, one in options.items())
            return f"{kind}({', '.join(named)})" if options else str(kind)
        case dict():
            return ", ".join(f"{key} {said(one)}" for key, one in value.items())
        case [dict(), *_]:
            return (" + " if all(isinstance(one, dict) and "type" in one for one in value) else "; ").join(
                map(said, value)
            )
        case list():
            return f"[{', '.join(map(said, value))}]"
        case _:
            return _word(value)


def read_spec(path: Path) -> SweepSection:
    """The file of a sweep; ConfigError when it is not one, the text names the key."""
    spec = parse_section(SweepSection, read_yaml(path), where=str(path))
    named = [("grid", key) for key in spec.grid]
    named += [(f"cells.{name}", key) for name, keys in spec.cells.items() for key in keys]
    for place, key in named:
        if key in _OWN:
            raise ConfigError(f"{path}: {place}.{key}: a sweep sets this key itself; {_OWN[key]}.")
        if not all(key.split(".")):
            raise ConfigError(f"{path}: {place}: '{key}' is no key; training.steps or recipe would be one.")
    return spec


def cells(spec: SweepSection, *, where: str) -> tuple[Cell, ...]:
    """The cells in the order of the table.

    Raises:
        ConfigError: there are none, two have one name, or the reference is not one of them.
    """
    found = list(_grid(spec.grid, where)) if spec.grid else []
    for name, keys in spec.cells.items():
        settings = (Setting(key, value, f"{where}: cells.{name}.{key}") for key, value in keys.items())
        found.append(Cell(name, tuple(settings)))
    found += [Cell(baseline, (), baseline) for baseline in spec.baselines]
    if not found:
        raise ConfigError(f"{where}: nothing to compare; give a 'grid', such as student.layers: [2, 4], or 'cells'.")
    names = [cell.name for cell in found]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{where}: two cells are called '{twice[0]}'; name the values, as in grid: {{key: {{a: 1}}}}."
        )
    if TEACHER in names:
        raise ConfigError(f"{where}: cells.{TEACHER}: the table calls the teacher itself so; choose another name.")
    if TIMED in names and (TIMED_BY not in names or (spec.reference or names[0]) == TIMED):
        raise ConfigError(
            f"{where}: baselines: {TIMED} is trained for as long as the reference, at the speed of {TIMED_BY}; list "
            f"{TIMED_BY} too, and take another cell as the reference."
        )
    if spec.reference is not None and spec.reference not in names:
        raise ConfigError(f"{where}: reference: there is no cell '{spec.reference}'; {nearest(spec.reference, names)}")
    return tuple(found)


def _grid(grid: Mapping[str, list[object] | dict[str, object]], where: str) -> Iterator[Cell]:
    short = _short(list(grid))
    axes = [
        [
            (f"{short[key]}={name}", Setting(key, value, f"{where}: grid.{key}"))
            for name, value in _named(key, axis, where)
        ]
        for key, axis in grid.items()
    ]
    for combination in itertools.product(*axes):
        yield Cell(",".join(name for name, _ in combination), tuple(setting for _, setting in combination))


def _named(key: str, axis: list[object] | dict[str, object], where: str) -> list[tuple[str, object]]:
    """The values of a key with names that can be folders."""
    if not axis:
        raise ConfigError(f"{where}: grid.{key} has no values; list some, or leave the key out.")
    if isinstance(axis, list):
        for value in axis:
            if isinstance(value, list | dict):
                raise ConfigError(f"{where}: grid.{key}: a list or section needs a name: {key}: {{soft: […]}}.")
        axis = {_word(value): value for value in axis}
    return [(re.sub(r"[^A-Za-z0-9.+_-]+", "-", name).strip("-") or "none", value) for name, value in axis.items()]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def _short(keys: list[str]) -> dict[str, str]:
    """Each key by its last part, with as many parts before it as set it apart from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found[key] = next(
            end for end in ends if end == key or not any(k != key and f".{k}".endswith(f".{end}") for k in keys)
        )
    return found
