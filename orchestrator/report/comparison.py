"""Runs that differ in a few values, compared: one table as Markdown, CSV and JSON lines, and as a page of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.records import TransferRow
from orchestrator.report import drawing
from orchestrator.report.data import Cell, DataFile
from orchestrator.report.looks import Panel
from orchestrator.report.page import environment, write_data
from orchestrator.report.transferred import OTHERS, transfer_tables
from orchestrator.storage import write_bytes

_HEADER = (
    "cell",
    "role",
    "measure",
    "mean",
    "spread",
    "seeds",
    "units",
    "reference",
    "difference",
    "low",
    "high",
    "pairs",
    "training_seconds",
)


@dataclass(frozen=True)
class Measure:
    """A column: `better` is +1 where more is better, -1 where less is; shares are shown as percentages."""

    name: str
    title: str
    better: Literal[-1, 1]
    is_share: bool
    explained: str

    def value(self, value: float) -> str:
        """A value in the unit of its column."""
        return f"{100 * value:z.1f}" if self.is_share else f"{value:z.3f}"

    def signed(self, value: float) -> str:
        """A difference in the unit of its column."""
        return (f"{100 * value:+z.1f}" if self.is_share else f"{value:+z.3f}").replace("-", "−")


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences from the reference, and its 95 % interval where one can be had."""

    value: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Figure:
    """One cell in one measure: mean over seeds of the mean over `units` (languages, or directions of retrieval).

    `spread`: standard deviation over seeds. None where there is one seed, or for the reference itself.
    """

    mean: float
    spread: float | None
    seeds: int
    units: int
    difference: Difference | None = None


@dataclass(frozen=True)
class ComparedCell:
    """A row: what a cell is called, what it sets, what it measures, and why some of its seeds are missing."""

    name: str
    role: Literal["teacher", "cell", "baseline"]
    settings: str
    figures: Mapping[str, Figure]
    seconds: float | None = None
    failures: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """Everything that the table shows."""

    title: str
    reference: str
    seeds: Sequence[int]
    measures: Sequence[Measure]
    cells: Sequence[ComparedCell]
    transfer: Sequence[TransferRow] = ()  # `model` is the name of a cell

    def best(self, measure: Measure) -> str | None:
        """The cell with the best mean; None where there is nothing to choose from."""
        known = [cell for cell in self.cells if cell.role != "teacher" and measure.name in cell.figures]
        if len(known) < 2:
            return None
        return max(known, key=lambda cell: measure.better * cell.figures[measure.name].mean).name


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write table.md, table.csv, table.jsonl and index.html into `folder`; returns the page."""
    table = data(comparison)
    lines = (json.dumps(dict(zip(table.header, row, strict=True)), ensure_ascii=False) for row in table.rows)
    write_bytes(folder / "table.csv", table.csv())
    write_bytes(folder / "table.jsonl", "".join(f"{line}\n" for line in lines).encode())
    write_bytes(folder / "table.md", markdown(comparison).encode())
    page, files = render(comparison)
    write_data(folder / "data", files)
    write_bytes(folder / "index.html", page.encode())
    return folder / "index.html"


def data(comparison: Comparison) -> DataFile:
    """One row for each cell and measure, in the units of the metric rows."""
    return DataFile("table", _HEADER, [row for cell in comparison.cells for row in _rows(comparison, cell)])


def _rows(comparison: Comparison, cell: ComparedCell) -> Iterator[Sequence[Cell]]:
    for measure in comparison.measures:
        figure = cell.figures.get(measure.name)
        if figure is None:
            continue
        gap = figure.difference
        compared = (None,) * 5 if gap is None else (comparison.reference, gap.value, gap.low, gap.high, gap.pairs)
        yield (
            *(cell.name, cell.role, measure.name, figure.mean, figure.spread, figure.seeds, figure.units),
            *compared,
            cell.seconds,
        )


def markdown(comparison: Comparison) -> str:
    """The table in Markdown, what its columns are below it, and what failed."""
    head = ["cell", *(f"{one.title}{_unit(one)}" for one in comparison.measures), "training, s"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for cell in comparison.cells:
        name = f"*{cell.name}*" if cell.role != "cell" else cell.name
        name += " (reference)" if cell.name == comparison.reference else ""
        seconds = "–" if cell.seconds is None else f"{cell.seconds:.0f}"
        cells = [_markdown_cell(comparison, cell, measure) for measure in comparison.measures]
        lines.append(f"| {' | '.join([name, *cells, seconds])} |")
    lines += ["", f"{legend(comparison)} Best of the column in bold.", ""]
    lines += [f"- {cell.name}: {reason}" for cell in comparison.cells for reason in cell.failures]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(comparison: Comparison, cell: ComparedCell, measure: Measure) -> str:
    figure = cell.figures.get(measure.name)
    if figure is None:
        return "–"
    text = mean_words(measure, figure)
    text = f"**{text}**" if comparison.best(measure) == cell.name else text
    return (
        text
        if figure.difference is None
        else f"{text}<br>{difference_words(measure, figure.difference).replace('*', '&#42;')}"
    )


def _unit(measure: Measure) -> str:
    return ", %" if measure.is_share else ""


def mean_words(measure: Measure, figure: Figure) -> str:
    """`41.2 ± 0.3`."""
    spread = "" if figure.spread is None else f" ± {measure.value(figure.spread)}"
    return f"{measure.value(figure.mean)}{spread}"


def difference_words(measure: Measure, gap: Difference) -> str:
    """`+1.2 [+0.3, +2.0] *`, where the star says that the interval leaves out 0."""
    if gap.low is None or gap.high is None:
        return measure.signed(gap.value)
    star = " *" if gap.is_clear else ""
    return f"{measure.signed(gap.value)} [{measure.signed(gap.low)}, {measure.signed(gap.high)}]{star}"


def legend(comparison: Comparison) -> str:
    """What the numbers of a cell are."""
    seeds = ", ".join(map(str, comparison.seeds))
    single = len(comparison.seeds) == 1
    spread = "" if single else " ± standard deviation over seeds"
    over = "languages alone, for there is one seed" if single else "seeds × languages"
    units = {figure.units for cell in comparison.cells for figure in cell.figures.values()}
    few = " With so few seeds in one language it is too narrow: cells that differ in nothing may well have a star."
    caution = few if units == {1} and 1 < len(comparison.seeds) < 10 else ""
    return (
        f"Seeds {seeds}: mean{spread}; below it the paired difference from {comparison.reference} with its 95 % "
        f"bootstrap interval over {over} (a star: 0 is outside).{caution}"
    )


def render(comparison: Comparison) -> tuple[str, list[DataFile]]:
    """The page, which needs nothing but itself, and the files that its plots link to."""
    files: list[DataFile] = []

    def linked(file: DataFile) -> DataFile:
        files.append(file)
        return file

    page = (
        environment()
        .get_template("comparison.html")
        .render(
            comparison=comparison,
            linked=linked,
            legend=legend(comparison),
            table=data(comparison),
            plots=[plot for measure in comparison.measures if (plot := _plot(comparison, measure)) is not None],
            transfers=transfer_tables(comparison.transfer),
            others=OTHERS,
            cell_names={cell.name: cell.name for cell in comparison.cells},
            mean_words=mean_words,
            verdict=_verdict,
            cell_words={"teacher": "teacher", "baseline": "baseline", "cell": "cell"},
            role_class={"teacher": "teacher", "baseline": "baseline", "cell": "student"},
        )
    )
    return page, files


def _plot(comparison: Comparison, measure: Measure) -> Panel | None:
    gaps = {
        cell.name: gap
        for cell in comparison.cells
        if (figure := cell.figures.get(measure.name)) is not None and (gap := figure.difference) is not None
    }
    if not gaps:
        return None
    colours = {"better": "student", "worse": "baseline", "": "muted"}
    intervals = [
        drawing.Interval(
            row,
            gap.value if gap.low is None else gap.low,
            gap.value,
            gap.value if gap.high is None else gap.high,
            colours[_verdict(measure, gap)],
        )
        for row, gap in enumerate(gaps.values())
    ]
    told = (f"{name} {difference_words(measure, gap)}" for name, gap in gaps.items())
    rows = [(name, gap.value, gap.low, gap.high, gap.pairs) for name, gap in gaps.items()]
    return Panel(
        title=f"{measure.title}: difference from {comparison.reference}{', points' if measure.is_share else ''}",
        svg=drawing.interval_plot(list(gaps), intervals, alt=f"{'; '.join(told)}.", percent=measure.is_share),
        data=DataFile(f"difference {measure.name}", ("cell", "difference", "low", "high", "pairs"), rows),
    )


def _verdict(measure: Measure, gap: Difference) -> str:
    """Better or worse than the reference; nothing where the interval holds 0."""
    if not gap.is_clear:
        return ""
    return "better" if gap.value * measure.better > 0 else "worse"
