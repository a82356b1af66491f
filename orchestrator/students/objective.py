"""From a student's forward pass and the teacher's signals to one number to minimise, and the raw value of each term."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orchestrator.students.batch import Batch
from orchestrator.students.frozen import KnownTeacher
from orchestrator.students.group import StudentGroup, StudentOutput
from orchestrator.students.layer_terms import layer_value
from orchestrator.students.output_terms import head_positions, output_values
from orchestrator.students.terms import Term, counts


@dataclass(frozen=True)
class MicroBatch:
    """A batch on its device, the terms it is for, and how many valid elements each of them has there."""

    batch: Batch
    terms: tuple[Term, ...]
    counts: Mapping[str, int]

    @property
    def num_tokens(self) -> int:
        """Tokens that are read for a term."""
        return self.batch.num_tokens if self.terms else 0


def micro_batch(terms: tuple[Term, ...], batch: Batch, *, device: torch.device) -> MicroBatch:
    """Count before the batch leaves the CPU, so that no step waits for the device to tell."""
    found = counts(terms, batch)
    return MicroBatch(batch.to(device), terms, found)


class StepSums:
    """What the micro-batches of a step add up to for one student: its loss, and the raw sum of each term.

    `values` float32 [1 + terms], the loss first; they stay a tensor, so that no step waits for the device.
    """

    def __init__(self, terms: Iterable[str], *, device: torch.device) -> None:
        self._places = {name: place for place, name in enumerate(terms, start=1)}
        self.values = torch.zeros(1 + len(self._places), device=device)

    def add(self, value: Tensor, raw: Mapping[str, Tensor]) -> None:
        """One micro-batch: its share of the step's loss, and the raw sum of each term that it is for; both detached."""
        self.values[0] += value
        for name, total in raw.items():
            self.values[self._places[name]] += total

    @property
    def loss(self) -> Tensor:
        """The loss of the step, a number."""
        return self.values[0]

    def raw(self, name: str) -> Tensor:
        """The raw sum of a term, a number."""
        return self.values[self._places[name]]


def total_counts(micro_batches: Iterable[MicroBatch], *, terms: Iterable[str] = ()) -> dict[str, int]:
    """Valid elements of each term over a whole step, what its sums are divided by; of `terms` at least 0."""
    totals = dict.fromkeys(terms, 0)
    for micro in micro_batches:
        for name, count in micro.counts.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def backward(
    group: StudentGroup,
    student: str,
    micro: MicroBatch,
    *,
    denominators: Mapping[str, int],
    weights: Mapping[str, float],
    known: Mapping[str, KnownTeacher],
    autocast: torch.autocast,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward pass of one micro-batch; its share of the step's loss and each term's raw sum, detached.

    `weights`: what each term counts for at this step; at 0 it is left out. `known`: teacher -> its frozen parameters.
    """
    terms = [term for term in micro.terms if weights[term.name] > 0.0]
    if not terms:
        return torch.zeros((), device=micro.batch.input_ids.device), {}
    with autocast:
        output = group.run(
            student,
            micro.batch,
            states=tuple(sorted({key for term in terms for key in term.student_states})),
            head_at=head_positions(terms),
        )
        value, raw = loss(
            terms,
            output,
            micro.batch,
            denominators=denominators,
            weights=weights,
            projections=group.projections,
            known=known,
        )
    if value.requires_grad:  # not when all that the terms read is frozen
        value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), raw


def loss(
    terms: Sequence[Term],
    output: StudentOutput,
    batch: Batch,
    *,
    denominators: Mapping[str, int],
    weights: Mapping[str, float],
    projections: nn.ModuleDict,
    known: Mapping[str, KnownTeacher],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_terms weight · (sum over this batch) / (count over the whole step), and each term's raw sum, detached.

    Dividing by the step's count makes the result independent of how a step is cut into micro-batches.
    """
    total = torch.zeros((), device=batch.input_ids.device)
    raw: dict[str, Tensor] = {}
    scales = {term.name: weights[term.name] / max(1, denominators[term.name]) for term in terms}
    for value, sums in output_values(terms, output, batch, scales=scales, projections=projections, known=known):
        total, raw = total + value, raw | sums
    for term in terms:
        own = layer_value(term, output, batch, projections=projections, known=known)
        if own is not None:
            total = total + scales[term.name] * own
            raw[term.name] = own.detach()
    return total, raw
