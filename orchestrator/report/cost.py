"""What it all took: teachers' passes, what they left on disk, sizes of models, training."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from orchestrator.config.setups import BASELINE_SUFFIX
from orchestrator.report.data import DataFile
from orchestrator.report.drawing import Colour
from orchestrator.report.headline import order
from orchestrator.report.making import ModelSize, TeacherPass
from orchestrator.report.reading import TrainingLog

#: What tells the tables of a kind of state apart.
_LAYER = re.compile(r"^(hidden|query|key|value)_\d+$")


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: `share` of the longest bar, and the value in words."""

    name: str
    share: float
    words: str
    aside: str
    colour: Colour


@dataclass(frozen=True)
class BarChart:
    """Bars below each other, with their numbers."""

    title: str
    note: str
    bars: tuple[Bar, ...]
    data: DataFile


@dataclass(frozen=True)
class TrainingCost:
    """What one student's training took."""

    setup: str
    student: str
    steps: int
    tokens: int
    tokens_per_second: float
    data_wait_share: float
    seconds: float


def training_costs(logs: Sequence[TrainingLog]) -> list[TrainingCost]:
    """One row per student."""
    return [
        TrainingCost(
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


def training_data(costs: Sequence[TrainingCost]) -> DataFile:
    """The table of training as a file."""
    header = ("setup", "student", "steps", "tokens", "tokens_per_second", "data_wait_share", "seconds")
    rows = [
        (one.setup, one.student, one.steps, one.tokens, one.tokens_per_second, one.data_wait_share, one.seconds)
        for one in costs
    ]
    return DataFile("training", header, rows)


def pass_data(passes: Sequence[TeacherPass]) -> DataFile:
    """The teachers' passes as a file."""
    header = ("teacher", "tokens", "worker_seconds", "tokens_per_second", "bytes", "stored_tokens")
    rows = [
        (one.teacher, one.tokens, one.seconds, one.tokens / max(one.seconds, 1e-9), one.num_bytes, one.stored_tokens)
        for one in passes
    ]
    return DataFile("teacher passes", header, rows)


def storage_charts(passes: Iterable[TeacherPass]) -> list[BarChart]:
    """Bytes of every kind of table that a teacher left, the largest first; the file has every table."""
    made = []
    for one in passes:
        if not one.tables:
            continue
        kinds: dict[str, list[int]] = defaultdict(list)
        for table, size in one.tables.items():
            kinds[_LAYER.sub(r"\1", table)].append(size)
        per_token = 1 / max(one.stored_tokens, 1)
        most = max(map(sum, kinds.values()))
        bars = [
            Bar(
                name=kind if len(sizes) == 1 else f"{kind}, {len(sizes)} layers",
                share=sum(sizes) / max(most, 1),
                words=bytes_in_words(sum(sizes)),
                aside=f"{sum(sizes) * per_token:,.1f} B/token",
                colour="teacher",
            )
            for kind, sizes in sorted(kinds.items(), key=lambda item: (-sum(item[1]), item[0]))
        ]
        note = (
            f"{bytes_in_words(one.num_bytes)} of {one.stored_tokens:,} tokens: {one.num_bytes * per_token:,.0f} B/token"
        )
        rows = [(name, size, size * per_token) for name, size in sorted(one.tables.items())]
        data = DataFile(f"storage {one.teacher}", ("table", "bytes", "bytes_per_token"), rows)
        made.append(BarChart(f"Stored of {one.teacher}, by table", note, tuple(bars), data))
    return made


def size_chart(models: Sequence[ModelSize]) -> BarChart | None:
    """Parameters of every model, teachers first; None without any."""
    if not models:
        return None
    models = sorted(models, key=lambda one: order(one.role, one.name))
    most = max(one.parameters for one in models)
    bars = [
        Bar(
            one.name,
            one.parameters / max(most, 1),
            f"{one.parameters / 1e6:,.1f} M",
            f"{one.layers} × {one.width}, {one.vocabulary:,} tokens",
            one.role,
        )
        for one in models
    ]
    header = ("model", "role", "layers", "width", "vocabulary", "parameters")
    rows = [(one.name, one.role, one.layers, one.width, one.vocabulary, one.parameters) for one in models]
    note = "parameters; layers × width, size of the vocabulary"
    return BarChart("Size of the models", note, tuple(bars), DataFile("sizes", header, rows))


def time_chart(costs: Sequence[TrainingCost]) -> BarChart | None:
    """Training time of every student; None without any."""
    if not costs:
        return None
    most = max(one.seconds for one in costs)
    bars = [
        Bar(
            name=f"{one.setup}/{one.student}",
            share=one.seconds / max(most, 1e-9),
            words=duration_in_words(one.seconds),
            aside=f"{one.tokens_per_second:,.0f} tokens/s",
            colour="baseline" if one.student.endswith(BASELINE_SUFFIX) else "student",
        )
        for one in costs
    ]
    rows = [(one.setup, one.student, one.seconds, one.tokens_per_second) for one in costs]
    data = DataFile("training time", ("setup", "student", "seconds", "tokens_per_second"), rows)
    return BarChart("Training time", "of each student", tuple(bars), data)


def duration_in_words(seconds: float) -> str:
    """1 h 02 min, 3 min 04 s, 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def bytes_in_words(number: float) -> str:
    """1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
