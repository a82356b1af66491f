"""Exported students: the receipt that says what each was made from, and its model card with the measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.config.setups import BASELINE_SUFFIX
from orchestrator.errors import StoreError
from orchestrator.report.card import model_card
from orchestrator.report.reading import read_metrics, read_training
from orchestrator.run import Run
from orchestrator.signals.fingerprint import JSON
from orchestrator.storage import parse_json, read_bytes, write_bytes
from orchestrator.students.job import RECEIPT

CARD = "README.md"
_MAX_BYTES = 1 << 20


def student_receipt(folder: Path) -> Mapping[str, JSON] | None:
    """The receipt of the exported student in `folder`, None where there is none.

    Raises:
        StoreError: it cannot be read.
    """
    path = folder / "final" / RECEIPT
    if not path.exists():
        return None
    try:
        found = parse_json(read_bytes(path, max_bytes=_MAX_BYTES))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StoreError(
            f"{path} is damaged; remove {path.parent} and run `orch train-students` to train this student again."
        )
    return found


def write_cards(run: Run) -> None:
    """README.md of every exported student of the setup, where it is not up to date; other setups have no say in it."""
    setup = run.expanded.setup
    rows = [
        row
        for row in read_metrics(run.metrics_path)
        if row.role == "teacher" or row.model.startswith(f"{setup}/") or row.model in (setup, setup + BASELINE_SUFFIX)
    ]
    logs = {log.student: log for log in read_training(run.root) if log.setup == setup}
    for student in run.expanded.students:
        receipt = student_receipt(run.students_folder / student.name)
        if receipt is None:
            continue
        parameters = receipt.get("parameters")
        card = model_card(
            student,
            setup=setup,
            config=run.config,
            rows=rows,
            log=logs.get(student.name),
            parameters=parameters if isinstance(parameters, int) else None,
        ).encode()
        path = run.students_folder / student.name / "final" / CARD
        if not path.exists() or read_bytes(path, max_bytes=_MAX_BYTES) != card:
            write_bytes(path, card)
