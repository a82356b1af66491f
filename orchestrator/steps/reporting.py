"""Step: one page with everything that was measured in a run, and the model cards brought up to date."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator import costs
from orchestrator.config.setups import BASELINE_SUFFIX
from orchestrator.errors import OrchError
from orchestrator.models.checkpoints import describe_checkpoint
from orchestrator.report.making import Making, ModelSize, TeacherPass
from orchestrator.run import Run
from orchestrator.steps.exports import student_receipt, write_cards
from orchestrator.steps.layermaps import layer_maps
from orchestrator.steps.signals import known_stores


def write_report(run: Run) -> Path:
    """Write the report of the whole run folder; returns the page."""
    from orchestrator.report.page import write_report as write_page

    write_cards(run)
    return write_page(run.root, making=Making(_passes(run), list(_models(run)), layer_maps(run)))


def _passes(run: Run) -> list[TeacherPass]:
    """What each teacher's pass took, and what it left on disk; a teacher that left nothing is not there."""
    units: dict[str, list[costs.UnitCost]] = defaultdict(list)
    for cost in costs.read(run.stores):
        units[cost.teacher].append(cost)
    tables: dict[str, Counter[str]] = defaultdict(Counter)
    stored: Counter[str] = Counter()
    with suppress(OrchError):  # text that was never read, a receipt that is damaged: `orch verify` says so
        for name, store in known_stores(run).items():
            for receipt in store.receipts().values():
                stored[name] += receipt.num_tokens
                tables[name].update({table: entry.num_bytes for table, entry in receipt.tables.items()})
    return [
        TeacherPass(
            teacher=name,
            tokens=sum(cost.tokens for cost in units[name]),
            seconds=sum(cost.seconds for cost in units[name]),
            stored_tokens=stored[name],
            tables=tables[name],
        )
        for name in run.teachers
        if units[name] or tables[name]
    ]


def _models(run: Run) -> Iterator[ModelSize]:
    """Teachers, and the exported students of all setups in the folder."""
    for name, info in run.checkpoints.items():
        if info is not None:
            yield ModelSize(name, "teacher", info.depth, info.width, info.vocab_size, info.num_parameters)
    for folder in sorted(path for path in run.root.glob("students/*/*") if student_receipt(path) is not None):
        info = describe_checkpoint(str(folder / "final"))
        yield ModelSize(
            f"{folder.parent.name}/{folder.name}",
            "baseline" if folder.name.endswith(BASELINE_SUFFIX) else "student",
            info.depth,
            info.width,
            info.vocab_size,
            info.num_parameters,
        )
