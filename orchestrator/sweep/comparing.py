"""What the cells of a sweep measure, set against the reference's figures of the same seed and language.

Shape legend: S seeds, U units (languages, or pairs of languages on one source), R resamples.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TypeAlias

import numpy as np

from orchestrator.config.setups import BASELINE_SUFFIX
from orchestrator.errors import OrchError
from orchestrator.records import MetricRow, TransferRow
from orchestrator.report import comparison
from orchestrator.report.comparison import ComparedCell, Comparison, Difference, Figure, Measure
from orchestrator.report.reading import read_metrics
from orchestrator.steps.evaluating import is_evaluated
from orchestrator.steps.transferring import rows_path
from orchestrator.storage import write_bytes
from orchestrator.sweep.opening import CellRun, Sweep
from orchestrator.sweep.spec import TEACHER
from orchestrator.sweep.timing import training_seconds
from orchestrator.transfer.cells import read_rows

#: seed -> unit -> value
Values: TypeAlias = Mapping[int, Mapping[str, float]]

RESAMPLES = 10_000

MEASURES = (
    Measure("accuracy", "Accuracy", 1, True, "Share of masked tokens of held-out text found at first choice."),
    Measure("bits_per_character", "Bits per character", -1, False, "Bits per masked token × tokens per character."),
    Measure("agreement", "Agreement", 1, True, "Share of masked tokens with the same first choice as the teacher’s."),
    Measure("kl", "KL to teacher", -1, False, "KL(teacher ‖ student) in nats per masked token."),
    Measure("retrieval", "Retrieval", 1, True, "Share of translations found by CSLS, vectors of the last layer."),
    Measure("cka", "CKA", 1, False, "Likeness of translations’ vectors up to rotation, last layer, unbiased."),
    Measure("neuron_correlation", "Neurons", 1, False, "Correlation of each neuron across translations, last layer."),
    Measure("head_swap", "Head swap", 1, True, "Accuracy of a linear head of another language, last layer."),
)
_METRICS = {
    "masked_lm_accuracy": "accuracy",
    "bits_per_character": "bits_per_character",
    "teacher_agreement": "agreement",
    "teacher_kl": "kl",
}
#: Those of the last layer, by pairs of languages.
_OF_PAIRS = {
    "retrieval_csls": "retrieval",
    "cka": "cka",
    "neuron_correlation": "neuron_correlation",
    "head_swap_accuracy": "head_swap",
}


@dataclass(frozen=True)
class MeasuredValue:
    """A line of figures.jsonl: one cell, seed, measure and unit, the mean over students that serve the unit."""

    cell: str
    seed: int
    measure: str
    unit: str
    value: float


def write_comparison(sweep: Sweep, failures: Mapping[str, str]) -> tuple[Comparison, Path]:
    """Compare what is measured so far, as a table and as the page that shows it.

    `failures`: name of a run -> why it is not there.
    """
    # teachers are measured once for all cells of a seed, and each of these has their rows
    found = list(dict.fromkeys(value for one in sweep.runs if _is_measured(one) for value in measured(one)))
    lines = (json.dumps(asdict(value), ensure_ascii=False) for value in found)
    folder = sweep.root / "report"
    write_bytes(folder / "figures.jsonl", "".join(f"{line}\n" for line in lines).encode())
    compared = replace(compare(sweep, found, failures), transfer=list(transferred(sweep)))
    return compared, comparison.write_comparison(compared, folder)


def compare(sweep: Sweep, found: Sequence[MeasuredValue], failures: Mapping[str, str]) -> Comparison:
    """The table: the teacher, then every cell beside the reference."""
    by_cell: dict[str, dict[str, dict[int, dict[str, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for value in found:
        by_cell[value.cell][value.measure][value.seed][value.unit] = value.value
    reference = by_cell[sweep.reference]
    rows = [ComparedCell(TEACHER, "teacher", "", _figures(by_cell[TEACHER], None))] if by_cell[TEACHER] else []
    for cell in sweep.cells:
        runs = [one for one in sweep.runs if one.cell == cell.name]
        rows.append(
            ComparedCell(
                cell.name,
                "cell" if cell.baseline is None else "baseline",
                cell.words,
                _figures(by_cell[cell.name], None if cell.name == sweep.reference else reference),
                seconds=_seconds(runs),
                failures=[f"seed {one.seed}: {failures[one.name]}" for one in runs if one.name in failures],
            )
        )
    there = {value.measure for value in found}
    measures = [measure for measure in MEASURES if measure.name in there]
    seeds = [seed for seed in sweep.section.seeds if any(value.seed == seed for value in found)]
    return Comparison(sweep.root.name, sweep.reference, seeds, measures, rows)


def measured(one: CellRun) -> Iterator[MeasuredValue]:
    """The figures of a run's students, and those of its teachers under the cell's name `teacher`."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for name, unit, row in _chosen(read_metrics(one.run.metrics_path)):
        if row.role != "baseline":
            values[TEACHER if row.role == "teacher" else one.cell, name, unit].append(row.value)
    served = {language for student in one.run.expanded.students for language in student.languages}
    for (cell, name, unit), several in values.items():
        if set(unit.rpartition(" ")[2].split("→")) <= served:
            yield MeasuredValue(cell, one.seed, name, unit, fmean(several))


def transferred(sweep: Sweep) -> Iterator[TransferRow]:
    """What `orch transfer` measured in each cell, under the cell's name; a teacher, the same for all, once."""
    for one in sweep.runs:
        for row in read_rows(rows_path(one.run)):
            name = TEACHER if row.role == "teacher" else one.cell
            yield replace(row, model=name + BASELINE_SUFFIX * (row.role == "baseline"))


def _chosen(rows: Sequence[MetricRow]) -> Iterator[tuple[str, str, MetricRow]]:
    """(measure, unit, row) of what is compared."""
    last: dict[tuple[object, ...], int] = {}
    for row in rows:
        if row.metric in _OF_PAIRS and row.layer is not None:
            last[_pair(row)] = max(row.layer, last.get(_pair(row), 0))
    for row in rows:
        if row.split == "held_out" and row.metric in _METRICS:
            yield _METRICS[row.metric], row.language, row
        elif row.metric in _OF_PAIRS and row.layer == last[_pair(row)] and row.language != row.other_language:
            source = row.split.partition(":")[2]
            yield _OF_PAIRS[row.metric], f"{source} {row.language}→{row.other_language}", row


def _pair(row: MetricRow) -> tuple[object, ...]:
    """What has one last layer; students of a system may differ in depth."""
    return row.model, row.metric, row.split, row.language, row.other_language


def _figures(values: Mapping[str, Values], reference: Mapping[str, Values] | None) -> dict[str, Figure]:
    found = {}
    for name, by_seed in values.items():
        means = [fmean(units.values()) for units in by_seed.values()]
        found[name] = Figure(
            mean=fmean(means),
            spread=stdev(means) if len(means) > 1 else None,
            seeds=len(means),
            units=max(map(len, by_seed.values())),
            difference=paired_difference(by_seed, reference[name]) if reference and name in reference else None,
        )
    return found


def paired_difference(own: Values, reference: Values) -> Difference | None:
    """Mean difference over the seeds and units that both have, and its 95 % interval.

    Seeds and units are crossed: figures of one seed, or of one language, go up and down together. So both are drawn
    anew, each on their own (the pigeonhole bootstrap, Owen 2007), and percentiles of the means are taken. None where
    no pair is there; an interval needs more than one.
    """
    seeds = sorted(own.keys() & reference.keys())
    units = sorted(set.intersection(*({*table[seed]} for table in (own, reference) for seed in seeds))) if seeds else []
    if not units:
        return None
    gaps = np.array([[own[seed][unit] - reference[seed][unit] for unit in units] for seed in seeds])  # [S, U]
    value = float(gaps.mean())
    if gaps.size == 1:
        return Difference(value, None, None, 1)
    draws = np.random.default_rng(0)
    by_seed, by_unit = (draws.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in gaps.shape)
    means = ((by_seed @ gaps) * by_unit).sum(axis=1)  # [R]
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(value, float(low), float(high), gaps.size)


def _is_measured(one: CellRun) -> bool:
    try:
        return is_evaluated(one.run)
    except OrchError:  # not trained, or not to its end
        return False


def _seconds(runs: Sequence[CellRun]) -> float | None:
    """Of training, mean over the seeds that began."""
    found = [seconds for one in runs if (seconds := training_seconds(one.run)) is not None]
    return fmean(found) if found else None
