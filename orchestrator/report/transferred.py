"""Fine-tuned in one language, tested in others: tables by mode and target, and a plot of what crosses over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from orchestrator.records import TransferRow
from orchestrator.report.data import DataFile
from orchestrator.report.drawing import Dot, dot_plot
from orchestrator.report.headline import ROLES, Role, short_name
from orchestrator.report.looks import SHAPES, Panel, role_legend
from orchestrator.transfer.summary import Figure, Line, summarise

#: What stands for the target in the mean over all but the source.
OTHERS = "others"
_SIZE = "trained_parameters"
#: The figure that is shown of a task: the first of these that was measured.
_MAIN = ("entity_f1", "accuracy")


@dataclass(frozen=True)
class TransferLine:
    """One model in one mode; `best`: targets on which no other small model, or mode of it, is better."""

    model: str
    role: Role
    mode: str
    figures: Mapping[str, Figure]
    trained_parameters: int
    best: frozenset[str]

    @property
    def name(self) -> str:
        """The model without what its role says already."""
        return short_name(self.model)


@dataclass(frozen=True)
class TransferTable:
    """Everything measured on one task from one language; `targets` end with OTHERS where there are several."""

    task: str
    metric: str
    source: str
    targets: tuple[str, ...]
    num_seeds: int
    lines: tuple[TransferLine, ...]
    plot: Panel | None
    data: DataFile

    @property
    def metric_words(self) -> str:
        """`accuracy`, `entity F1`."""
        return self.metric.replace("_f1", " F1")

    @property
    def by_model(self) -> list[list[TransferLine]]:
        """The lines of each model."""
        models: dict[str, list[TransferLine]] = {}
        for line in self.lines:
            models.setdefault(line.model, []).append(line)
        return list(models.values())


def transfer_tables(rows: Iterable[TransferRow]) -> list[TransferTable]:
    """One per task and source; of the same figure measured twice the later counts."""
    latest = {
        (row.task, row.model, row.mode, row.other_language, row.language, row.seed, row.metric): row for row in rows
    }
    measured = list(latest.values())
    there: dict[str, list[str]] = defaultdict(list)
    for row in measured:
        if row.metric != _SIZE:
            there[row.task].append(row.metric)
    metrics = {task: next((one for one in _MAIN if one in found), found[0]) for task, found in there.items()}
    roles = {row.model: row.role for row in measured}
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    shown = [row for row in measured if row.metric in (metrics.get(row.task), _SIZE)]
    for line in summarise([*shown, *_means(shown)], metrics=metrics):
        groups[line.task, line.source].append(line)
    return [_table(task, source, lines, roles) for (task, source), lines in groups.items()]


def _means(rows: Sequence[TransferRow]) -> Iterator[TransferRow]:
    """For each model, mode and seed the mean over the targets besides the source, where none of these is missing."""
    targets: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    found: dict[tuple[str, str | None, str, str, int], list[TransferRow]] = defaultdict(list)
    for row in rows:
        if row.language != row.other_language and row.metric != _SIZE:
            targets[row.task, row.other_language].add(row.language)
            found[row.task, row.other_language, row.model, row.mode, row.seed].append(row)
    for (task, source, *_), same in found.items():
        if len(same) == len(targets[task, source]) > 1:
            yield replace(same[0], language=OTHERS, value=fmean(row.value for row in same))


def _table(task: str, source: str, lines: Sequence[Line], roles: dict[str, Role]) -> TransferTable:
    lines = sorted(lines, key=lambda line: ROLES.index(roles[line.model]))  # else as they were measured
    there = {target for line in lines for target in line.figures}
    targets = sorted(there, key=lambda target: (target == OTHERS, target != source, target))
    small = [line.figures for line in lines if roles[line.model] != "teacher"]
    best = {
        target: max((found[target].mean for found in small if target in found), default=float("nan"))
        for target in targets
        if sum(target in found for found in small) > 1
    }
    made = tuple(
        TransferLine(
            model=line.model,
            role=roles[line.model],
            mode=line.mode,
            figures=line.figures,
            trained_parameters=line.trained_parameters,
            best=frozenset(
                target
                for target, figure in line.figures.items()
                if roles[line.model] != "teacher" and figure.mean == best.get(target)
            ),
        )
        for line in lines
    )
    return TransferTable(
        task=task,
        metric=lines[0].metric,
        source=source,
        targets=tuple(targets),
        num_seeds=max(figure.seeds for line in lines for figure in line.figures.values()),
        lines=made,
        plot=_plot(task, source, made, targets[-1]),
        data=_data(task, source, lines[0].metric, made),
    )


def _plot(task: str, source: str, lines: Sequence[TransferLine], target: str) -> Panel | None:
    """Modes below each other, a dot for each model, at `target`."""
    shown = [line for line in lines if target in line.figures]
    if not shown:
        return None
    modes = list(dict.fromkeys(line.mode for line in shown))
    dots = [Dot(modes.index(one.mode), one.figures[target].mean, one.role, SHAPES[one.role]) for one in shown]
    told = (f"{one.mode}, {one.model}: {one.figures[target].mean:.3f}" for one in shown)
    where = "mean over the other languages" if target == OTHERS else f"in {target}"
    rows = [(one.mode, one.model, one.role, target, one.figures[target].mean) for one in shown]
    return Panel(
        title=f"{task}: learnt in {source}, {where}",
        svg=dot_plot(modes, dots, alt=f"{task} by mode, {where}. {'; '.join(told)}.", x_percent=True),
        data=DataFile(f"transfer plot {task} {source}", ("mode", "model", "role", "target", "mean"), rows),
        legend=role_legend(line.role for line in shown),
    )


def _data(task: str, source: str, metric: str, lines: Sequence[TransferLine]) -> DataFile:
    header = ("task", "metric", "source", "target", "model", "role", "mode", "mean", "spread", "seeds", "trained")
    rows = [
        (
            *(task, metric, source, target, line.model, line.role, line.mode),
            *(figure.mean, figure.spread, figure.seeds, line.trained_parameters),
        )
        for line in lines
        for target, figure in line.figures.items()
    ]
    return DataFile(f"transfer {task} {source}", header, rows)
