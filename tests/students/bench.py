"""One student, the rows of one language, and a step on them; with anchors, another student that it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import AnchorsObjective, Objective
from orchestrator.students.anchors import ANCHORS
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
        return micro_batch(tuple(t for t in self.terms if not t.reads_embeddings), self.batch(*rows), device=CPU)

    @property
    def anchored(self) -> tuple[Term, ...]:
        return tuple(term for term in self.terms if term.reads_embeddings)

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
    anchored = any(isinstance(objective, AnchorsObjective) for objective in objectives)
    names = ("s", "other") if anchored else ("s",)
    specs = [
        student(n, language, objectives=objectives, teachers={language: teacher}, template=template) for n in names
    ]
    job = make_job(world, root, *specs, vocabulary=vocabulary)
    built = build_group(job)
    if anchored and template.initialisation.layers == "random":  # both start with the same rows otherwise
        own = torch.Generator().manual_seed(0)
        with torch.no_grad():
            built.module.encoder("other").word_embeddings.weight.normal_(generator=own)
    reader = build_streams(job, built.vocabularies, cursors={})["s"].readers[language]
    known = build_known(job, built.vocabularies, device="cpu")["s"]
    terms = built.terms["s"][0]
    return Bench(built, reader, whole(reader), terms[language] + terms.get(ANCHORS, ()), known)


def step(bench: Bench, *micros: MicroBatch) -> tuple[float, dict[str, float], dict[str, Tensor]]:
    """Loss, raw terms per element, and gradients of one step."""
    group = bench.built.module
    group.zero_grad(set_to_none=True)
    denominators = total_counts(micros) | bench.built.anchors.counts("s", bench.anchored)
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
    for _, value, raw in bench.built.anchors.backward(group, {"s": bench.anchored}, weights={"s": bench.weights}):
        loss += float(value)
        for name, total in raw.items():
            sums[name] += float(total)
    gradients = {name: p.grad for name, p in group.trained().items() if p.grad is not None}
    return loss, {name: total / max(1, denominators[name]) for name, total in sums.items()}, gradients
