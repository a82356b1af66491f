"""The worker that evaluates one job; rows are also written as they are known, so that others can see how far it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.job import EvaluationJob
from orchestrator.records import MetricRow
from orchestrator.storage import make_folder


@dataclass(frozen=True)
class EvaluationUnit:
    """A job, and the file that its rows are added to while it runs."""

    job: EvaluationJob
    rows_path: Path


class EvaluationWorker:
    """Runs evaluation units; a plain class that the cluster makes an actor."""

    def run(self, unit: EvaluationUnit) -> list[MetricRow]:
        """Every row of a job."""
        rows = []
        make_folder(unit.rows_path.parent)
        with unit.rows_path.open("w", encoding="utf-8") as shown:  # lost with the worker, so not worth an fsync per row
            for row in evaluate(unit.job):
                shown.write(f"{json.dumps(asdict(row))}\n")
                shown.flush()
                rows.append(row)
        return rows
