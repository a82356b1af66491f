"""The worker that evaluates one job; rows are also written as they are known, so that others can see how far it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.job import EvaluationJob
from orchestrator.records import MetricRow
from orchestrator.storage import append_line


@dataclass(frozen=True)
class EvaluationUnit:
    """A job, and the file that its rows are added to while it runs."""

    job: EvaluationJob
    rows_path: Path


class EvaluationWorker:
    """Runs evaluation units; a plain class that the cluster makes an actor."""

    def run(self, unit: EvaluationUnit) -> list[MetricRow]:
        """Every row of a job."""
        unit.rows_path.unlink(missing_ok=True)
        rows = []
        for row in evaluate(unit.job):
            append_line(unit.rows_path, json.dumps(asdict(row)))
            rows.append(row)
        return rows
