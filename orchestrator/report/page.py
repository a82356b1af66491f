"""The report of a run: one HTML page that needs nothing but itself, and the numbers of its plots as CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.records import MetricRow
from orchestrator.report import views
from orchestrator.report.data import DataFile
from orchestrator.report.headline import MEAN, ROLE_WORDS, HeadlineRow, alignment, decimal, headline, means, percent
from orchestrator.report.reading import TrainingLog, read_metrics, read_training
from orchestrator.storage import read_bytes, write_bytes

_MAX_CONFIG_BYTES = 1 << 20


def write_report(root: Path, *, facts: Mapping[str, str] | None = None) -> Path:
    """Write report/index.html and report/data/*.csv of the run at `root`; return the page.

    Whatever is not there yet (evaluation, parallel text, a baseline, training logs) is left out of the page. `facts`
    are shown as they are, beside the costs: what a figure is called, and the figure in words.

    Raises:
        StoreError: a file of the run is damaged.
        StorageError: the page cannot be written.
    """
    config = root / "config.yaml"
    text = read_bytes(config, max_bytes=_MAX_CONFIG_BYTES).decode(errors="replace") if config.is_file() else ""
    page, files = render(
        root.resolve().name,
        rows=read_metrics(root / "evaluation" / "metrics.jsonl"),
        logs=read_training(root),
        config=text,
        facts=facts or {},
    )
    for file in files:
        write_bytes(root / "report" / "data" / file.file_name, file.csv())
    path = root / "report" / "index.html"
    write_bytes(path, page.encode())
    return path


def render(
    title: str, *, rows: Sequence[MetricRow], logs: Sequence[TrainingLog], config: str, facts: Mapping[str, str]
) -> tuple[str, list[DataFile]]:
    """The page, and the files that its plots and tables link to."""
    measured, alignments = headline(rows), alignment(rows)
    head = [*measured, *means(measured)]
    training = headline(rows, split="train")
    training += means(training)
    accuracy = views.accuracy_panels(measured)
    heat_maps = views.heat_maps(rows)
    curves = views.layer_curves(rows)
    learning = views.learning_curves(logs)
    table = views.headline_data(head)
    panels = [panel for row in (accuracy, *learning) if row is not None for panel in row.panels]
    files = [panel.data for panel in (*panels, *curves)] + [heat.data for heat in heat_maps]
    if head:
        files.append(table)
    page = (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            verdicts=views.verdicts(measured, alignments),
            languages=_by_language(head),
            num_teachers=len({row.model for row in measured if row.role == "teacher"}),
            num_students=len({row.model for row in measured if row.role == "student"}),
            codes=list(dict.fromkeys(row.language for row in measured)),
            training={(row.language, row.model, row.role): row for row in training},
            table=table,
            accuracy=accuracy,
            heat_maps=heat_maps,
            curves=curves,
            alignments=alignments,
            learning=learning,
            costs=views.costs(logs),
            facts=facts,
            config=config,
            mean=MEAN,
            role_words=ROLE_WORDS,
        )
    )
    return page, files


def _by_language(rows: Sequence[HeadlineRow]) -> dict[str, list[HeadlineRow]]:
    grouped: dict[str, list[HeadlineRow]] = {}
    for row in rows:
        grouped.setdefault(row.language, []).append(row)
    return grouped


def environment() -> Environment:
    """What renders the pages: every text is escaped, and figures have words."""
    environment = Environment(
        loader=FunctionLoader(lambda name: resources.files("orchestrator.report").joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "decimal": decimal,
        "points": lambda value: f"{abs(100 * value):.1f} points {'above' if value >= 0 else 'below'}",
        "count": lambda value: f"{value:,.0f}".replace(",", "\u202f"),
        "duration": _duration,
        "svg": Markup,  # made by matplotlib, which escapes the text in it
    }
    return environment


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
