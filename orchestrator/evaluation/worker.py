"""The worker that evaluates one job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.job import EvaluationJob
from orchestrator.records import MetricRow


@dataclass(frozen=True)
class EvaluationUnit:
    """A job, and the file that keeps its finished parts: others see in it how far it is, and a new start goes on."""

    job: EvaluationJob
    parts_path: Path


class EvaluationWorker:
    """Runs evaluation units; a plain class that the cluster makes an actor."""

    def run(self, unit: EvaluationUnit) -> list[MetricRow]:
        """Every row of a job."""
        return list(evaluate(unit.job, kept_in=unit.parts_path))
