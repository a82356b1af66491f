"""One step of a group: from the micro-batches of all students, on all workers, to the stepped parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from orchestrator.config.phases import phase_at
from orchestrator.config.run import TrainingSection
from orchestrator.models.devices import Device, pick_dtype
from orchestrator.students.anchors import ANCHORS
from orchestrator.students.build import BuiltGroup, build_known
from orchestrator.students.group import Parts
from orchestrator.students.job import GroupJob
from orchestrator.students.objective import MicroBatch, StepSums, backward, total_counts
from orchestrator.students.optimising import clip_gradients
from orchestrator.students.parallel import Workers
from orchestrator.students.rows import seed_for
from orchestrator.students.schedules import weight_at
from orchestrator.students.stream import Step


@dataclass(frozen=True)
class Taken:
    """What a step came to for one student, over all workers."""

    loss: Tensor  # a number
    raw: dict[str, Tensor]  # term that was computed -> its raw sum
    counts: dict[str, int]  # term that was computed -> valid elements, which the sum is divided by
    gradient_norm: Tensor  # a number, before clipping
    num_tokens: int


class Stepper:
    """Takes the steps of a group, on one of the workers that train it together."""

    def __init__(
        self,
        job: GroupJob,
        built: BuiltGroup,
        *,
        parts: Parts,
        trained: Iterable[Parameter],
        optimiser: torch.optim.Optimizer,
        workers: Workers,
        device: Device,
    ) -> None:
        """`parts`, `trained`: all that the optimiser steps, whatever a phase freezes."""
        self._job, self._built, self._group = job, built, built.module
        self._parts, self._trained, self._optimiser, self._workers = parts, list(trained), optimiser, workers
        self._device = torch.device(device)
        self._known = build_known(job, built.vocabularies, device=device)
        self._anchors = built.anchors.to(self._device)
        self._origins = {student.name: student.origin for student in job.group.students}
        self._autocast = torch.autocast(device, torch.bfloat16, enabled=_precision(job.training, device) == "bfloat16")

    def take(self, step: Step[MicroBatch]) -> dict[str, Taken]:
        """Student -> what the step came to. Nothing waits for the device; the same step gives the same parameters."""
        at = phase_at(self._job.group.phases, step.number)
        names, batches, workers = self._group.names, step.batches, self._workers
        weights = {name: self._weights(name, at, step.number) for name in names}
        anchored = {name: self._built.terms[name][at].get(ANCHORS, ()) for name in names}
        counted = workers.add_counts(
            {name: total_counts(own.values(), terms=weights[name]) for name, own in batches.items()}
        )
        counts = {name: own | self._anchors.counts(name, anchored[name]) for name, own in counted.items()}
        sums = {name: StepSums(weights[name], device=self._device) for name in names}
        for name, own in batches.items():
            for number, micro in own.items():
                torch.manual_seed(seed_for("dropout", self._job.seed, self._origins[name], step.number, number))
                sums[name].add(
                    *backward(
                        self._group,
                        name,
                        micro,
                        denominators=counts[name],
                        weights=weights[name],
                        known=self._known[name],
                        autocast=self._autocast,
                    )
                )
        if workers.is_first:  # not of any batch
            for name, value, raw in self._anchors.backward(self._group, anchored, weights=weights):
                sums[name].add(value, raw)
        norms = self._step_parameters()

        read = {name: {"tokens": sum(micro.num_tokens for micro in own.values())} for name, own in batches.items()}
        tokens = workers.add_counts(read)
        taken = {}
        for name in names:
            workers.add_values(sums[name].values)
            computed = {term: count for term, count in counts[name].items() if weights[name][term]}
            raw = {term: sums[name].raw(term) for term in computed}
            taken[name] = Taken(sums[name].loss, raw, computed, norms[name], tokens[name]["tokens"])
        return taken

    def _step_parameters(self) -> dict[str, Tensor]:
        """Gradients of all workers added up, clipped, and spent; student -> their norm before clipping."""
        self._workers.add_gradients(self._trained)
        norms = clip_gradients(self._parts, max_norm=self._job.training.clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return norms

    def _weights(self, student: str, index: int, step: int) -> dict[str, float]:
        """Term -> its weight at a step of the training."""
        phase = self._job.group.phases[index]
        within = phase.step_within(step)
        return {
            term.name: weight_at(term.objective.weight, step=within, steps=phase.num_steps)
            for terms in self._built.terms[student][index].values()
            for term in terms
        }


def _precision(training: TrainingSection, device: Device) -> str:
    wanted = {"auto": "auto", "bf16": "bfloat16", "fp32": "float32"}[training.precision]
    return pick_dtype(wanted, device=device)  # type: ignore[arg-type]
