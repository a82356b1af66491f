"""One student, the rows of one language, and a step on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import Objective
from orchestrator.students.batch import Batch
from orchestrator.students.batches import BatchReader
from orchestrator.students.build import BuiltGroup, build_group, build_known, build_streams
from orchestrator.students.frozen import KnownTeacher
from orchestrator.students.objective import MicroBatch, backward, micro_batch, total_counts
from orchestrator.students.rows import Window
from orchestrator.students.schedules import weight_at
from orchestrator.students.terms import Term
from tests.students.tiny import STUDENT, World, make_job, student, whole

CPU = torch.device("cpu")


@dataclass
class Bench:
    """A student "s" and all rows of its language as one window."""

    built: BuiltGroup
    reader: BatchReader
    window: Window
    terms: tuple[Term, ...]
    known: Mapping[str, KnownTeacher]

    def micro(self, *rows: int) -> MicroBatch:
        return micro_batch(self.terms, self.batch(*rows), device=CPU)

    def batch(self, *rows: int) -> Batch:
        return self.reader.batch(self.window, np.asarray(rows))

    @property
    def weights(self) -> dict[str, float]:
        return {term.name: weight_at(term.objective.weight, step=1, steps=1) for term in self.terms}


def make_bench(
    world: World,
    root: Path,
    *objectives: Objective,
    language: str = "aa",
    teacher: str = "mixed",
    vocabulary: str = "aa",
    template: StudentTemplate = STUDENT,
) -> Bench:
    spec = student("s", language, objectives=objectives, teachers={language: teacher}, template=template)
    job = make_job(world, root, spec, vocabulary=vocabulary)
    built = build_group(job)
    reader = build_streams(job, built.vocabularies, cursors={})["s"].readers[language]
    known = build_known(job, built.vocabularies, device="cpu")["s"]
    return Bench(built, reader, whole(reader), built.terms["s"][0][language], known)


def step(bench: Bench, *micros: MicroBatch) -> tuple[float, dict[str, float], dict[str, Tensor]]:
    """Loss, raw terms per element, and gradients of one step."""
    group = bench.built.module
    group.zero_grad(set_to_none=True)
    denominators = total_counts(micros)
    loss, sums = 0.0, dict.fromkeys(denominators, 0.0)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    for micro in micros:
        value, raw = backward(
            group,
            "s",
            micro,
            denominators=denominators,
            weights=bench.weights,
            known=bench.known,
            autocast=autocast,
        )
        loss += float(value)
        for name, total in raw.items():
            sums[name] += float(total)
    gradients = {name: p.grad for name, p in group.trained().items() if p.grad is not None}
    return loss, {name: total / max(1, denominators[name]) for name, total in sums.items()}, gradients
