"""The report of a run: one HTML page that needs nothing but itself, and the numbers of its plots as CSV files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.records import MetricRow, TransferRow
from orchestrator.report import across, cost, views
from orchestrator.report.data import DataFile
from orchestrator.report.headline import MEAN, ROLE_WORDS, HeadlineRow, alignment, decimal, headline, means, percent
from orchestrator.report.layers import layer_diagrams
from orchestrator.report.learning import learning_curves
from orchestrator.report.making import Making
from orchestrator.report.reading import TrainingLog, read_metrics, read_training
from orchestrator.report.transferred import OTHERS, transfer_tables
from orchestrator.storage import read_bytes, write_bytes
from orchestrator.transfer.cells import read_rows

_MAX_CONFIG_BYTES = 1 << 20


def write_report(root: Path, *, making: Making | None = None) -> Path:
    """Write report/index.html and report/data/*.csv of the run at `root`; return the page.

    Whatever is not there yet (evaluation, parallel text, a baseline, training logs, transfer, what `making` tells of
    costs and layers) is left out of the page.

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
        making=making or Making(),
        transfer=read_rows(root / "transfer" / "metrics.jsonl"),
    )
    write_data(root / "report" / "data", files)
    path = root / "report" / "index.html"
    write_bytes(path, page.encode())
    return path


def write_data(folder: Path, files: Iterable[DataFile]) -> None:
    """The numbers of a page's plots, a file each; those of plots that are no longer there are removed."""
    names = set()
    for file in files:
        write_bytes(folder / file.file_name, file.csv())
        names.add(file.file_name)
    for path in folder.glob("*.csv"):
        if path.name not in names:
            path.unlink()


def render(
    title: str,
    *,
    rows: Sequence[MetricRow],
    logs: Sequence[TrainingLog],
    config: str,
    making: Making,
    transfer: Sequence[TransferRow] = (),
) -> tuple[str, list[DataFile]]:
    """The page, and the files that its plots and tables link to."""
    files: list[DataFile] = []

    def linked(file: DataFile) -> DataFile:
        """What the page links to lies beside it too."""
        files.append(file)
        return file

    measured, alignments = headline(rows), alignment(rows)
    head = [*measured, *means(measured)]
    training = headline(rows, split="train")
    training += means(training)
    costs = cost.training_costs(logs)
    compared = (cost.size_chart(making.models), cost.time_chart(costs))
    page = (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            linked=linked,
            verdicts=views.verdicts(measured, alignments),
            languages=_by_language(head),
            num_teachers=len({row.model for row in measured if row.role == "teacher"}),
            num_students=len({row.model for row in measured if row.role == "student"}),
            codes=list(dict.fromkeys(row.language for row in measured)),
            training={(row.language, row.model, row.role): row for row in training},
            table=views.headline_data(head),
            accuracy=views.accuracy_panels(measured),
            heat_maps=across.heat_maps(rows),
            curves=across.layer_curves(rows),
            alignments=alignments,
            alignment_table=views.alignment_data(alignments),
            transfers=transfer_tables(transfer),
            diagrams=layer_diagrams(making.layer_maps),
            learning=learning_curves(logs),
            passes=making.passes,
            pass_table=cost.pass_data(making.passes),
            charts=cost.storage_charts(making.passes) + [chart for chart in compared if chart is not None],
            costs=costs,
            cost_table=cost.training_data(costs),
            config=config,
            mean=MEAN,
            others=OTHERS,
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
    environment.globals["role_words"] = ROLE_WORDS
    environment.filters |= {
        "percent": percent,
        "decimal": decimal,
        "points": lambda value: f"{abs(100 * value):.1f} points {'above' if value >= 0 else 'below'}",
        "count": lambda value: f"{value:,.0f}".replace(",", "\u202f"),
        "duration": cost.duration_in_words,
        "bytes": cost.bytes_in_words,
        "svg": Markup,  # made by matplotlib, which escapes the text in it
    }
    return environment
