"""An opened sweep: a run for every cell and seed, checked before anything is computed, and what they have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from orchestrator.config.loading import Setting, configure
from orchestrator.config.reading import Tree, read_yaml
from orchestrator.config.run import RunConfig
from orchestrator.errors import ConfigError, OrchError
from orchestrator.run import Run, make_run
from orchestrator.storage import local_path
from orchestrator.sweep.baselines import baseline_settings
from orchestrator.sweep.spec import TIMED, Cell, SweepSection, cells, read_spec
from orchestrator.sweep.timing import decided_steps, with_steps


@dataclass(frozen=True)
class CellRun:
    """One cell with one seed: a run of its own."""

    cell: str
    seed: int
    run: Run
    is_open: bool = False  # how many steps it has is yet to be decided; the run has the base's

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.cell}, seed {self.seed}"


@dataclass(frozen=True)
class Share:
    """Runs that read the same text and hear the same teachers: their signals lie in the same stores.

    `joint` is a run of all their students, so that each teacher says at once what all of them ask.
    """

    joint: Run
    members: tuple[CellRun, ...]


@dataclass(frozen=True)
class Sweep:
    """What every step of a sweep is given."""

    section: SweepSection
    cells: tuple[Cell, ...]
    runs: tuple[CellRun, ...]
    address: str | None

    @property
    def root(self) -> Path:
        """The folder that holds everything: `shared/`, `cells/<cell>/seed-<seed>/`, `report/`, `logs/`."""
        return local_path(self.section.root)

    @property
    def reference(self) -> str:
        """The cell that the others are compared with."""
        return self.section.reference or self.cells[0].name

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """The runs by what they have in common, in their order."""
        found: dict[str, list[CellRun]] = {}
        for one in self.runs:
            found.setdefault(_text_and_teachers(one.run.config), []).append(one)
        return tuple(Share(_joint(self, members), tuple(members)) for members in found.values())


def open_sweep(path: Path, *, address: str | None = None) -> Sweep:
    """Read, check and expand a sweep and every run of it.

    Raises:
        ConfigError, DataError: something in the sweep, its base or a cell is wrong; the text names the first such cell.
    """
    section = read_spec(path)
    tree = read_yaml(Path(section.base))
    base = make_run(configure(tree, (), where=section.base), address=address)
    if base.config.signals.mode == "hybrid":
        raise ConfigError(
            f"{section.base}: signals.mode hybrid stores while it trains, and the cells of a sweep share their stores; "
            "take cache, which stores the same before, or live."
        )
    known = tuple(
        replace(cell, settings=baseline_settings(cell.baseline, base)) if cell.baseline is not None else cell
        for cell in cells(section, where=str(path))
    )
    runs = tuple(
        CellRun(cell.name, seed, _open(tree, cell, seed, section, where=str(path)), is_open=cell.baseline == TIMED)
        for cell in known
        for seed in section.seeds
    )
    return settled(Sweep(section, known, runs, base.address))


def settled(sweep: Sweep) -> Sweep:
    """The sweep with the numbers of steps that are decided by now; StoreError where a file that says so is damaged."""
    runs = []
    for one in sweep.runs:
        if one.is_open and (steps := decided_steps(sweep.root, one.seed, reference=sweep.reference)) is not None:
            runs.append(CellRun(one.cell, one.seed, with_steps(one.run, steps)))
        else:
            runs.append(one)
    return replace(sweep, runs=tuple(runs))


def _open(tree: Tree, cell: Cell, seed: int, section: SweepSection, *, where: str) -> Run:
    """The run of a cell, whose own cluster is the process that it is given."""
    root = local_path(section.root)
    own: Mapping[str, object] = {
        "run.seed": seed,
        "run.root": str(root / "cells" / cell.name / f"seed-{seed}"),
        "run.stores": str(root / "shared"),
        "training.baseline": False,  # once for the sweep, as baseline no-teacher, and not once more for every cell
    }
    given = {setting.key for setting in cell.settings}
    settings = [Setting(key, value, where) for key, value in own.items() if key not in given]
    name = f"{where}: cell {cell.name}"
    config = configure(tree, [*cell.settings, *settings], where=name)
    try:
        return make_run(config, address="in-process")
    except OrchError as error:
        raise type(error)(f"{name}: {error}") from None


def _text_and_teachers(config: RunConfig) -> str:
    """What decides the masked text, and what can be asked of whom."""
    return json.dumps(
        {
            "seed": config.run.seed,
            "corpus": config.corpus.model_dump(mode="json", exclude={"sampling"}),
            "teachers": {name: teacher.model_dump(mode="json") for name, teacher in config.teachers.items()},
            "signals": config.signals.model_dump(mode="json"),
        },
        sort_keys=True,
    )


def _joint(sweep: Sweep, members: list[CellRun]) -> Run:
    first = members[0].run
    section = first.config.run.model_copy(update={"root": str(sweep.root / "shared"), "stores": None})
    groups = tuple(group for one in members for group in one.run.expanded.groups)
    config = first.config.model_copy(update={"run": section})
    return Run(replace(first.expanded, config=config, groups=groups), sweep.address)
