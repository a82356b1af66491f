"""From a student's forward pass and the teacher's signals to one number to minimise, and the raw value of each term.

Shape legend: M masked positions, K kept ids, N tokens without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from orchestrator.config.objectives import HiddenStatesObjective, MaskedLMObjective, SoftTargetsObjective
from orchestrator.losses.fused import linear_output_losses
from orchestrator.losses.hidden import hidden_cosine, hidden_mse
from orchestrator.losses.targets import Tail, top_k_targets
from orchestrator.students.batches import Batch
from orchestrator.students.group import StudentGroup, StudentOutput
from orchestrator.students.terms import Term, counts, needs_head, student_layers


@dataclass(frozen=True)
class MicroBatch:
    """A batch on its device, the terms it is for, and how many valid elements each of them has there."""

    batch: Batch
    terms: tuple[Term, ...]
    counts: Mapping[str, int]


def micro_batch(terms: tuple[Term, ...], batch: Batch, *, device: torch.device) -> MicroBatch:
    """Count before the batch leaves the CPU, so that no step waits for the device to tell."""
    found = counts(terms, batch)
    return MicroBatch(batch.to(device), terms, found)


def total_counts(micro_batches: Sequence[MicroBatch]) -> dict[str, int]:
    """Valid elements of each term over a whole step: what its sums are divided by."""
    totals: dict[str, int] = {}
    for micro in micro_batches:
        for name, count in micro.counts.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def backward(
    group: StudentGroup, student: str, micro: MicroBatch, *, denominators: Mapping[str, int], autocast: torch.autocast
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward pass of one micro-batch; its share of the step's loss and each term's raw sum, detached."""
    with autocast:
        output = group.run(student, micro.batch, layers=student_layers(micro.terms), needs_head=needs_head(micro.terms))
        value, raw = loss(micro.terms, output, micro.batch, denominators=denominators, projections=group.projections)
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), raw


def loss(
    terms: Sequence[Term],
    output: StudentOutput,
    batch: Batch,
    *,
    denominators: Mapping[str, int],
    projections: nn.ModuleDict,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_terms weight · (sum over this batch) / (count over the whole step), and each term's raw sum, detached.

    Dividing by the step's count makes the result independent of how a step is cut into micro-batches.
    """
    total = torch.zeros((), device=batch.input_ids.device)
    raw: dict[str, Tensor] = {}
    scales = {term.name: term.objective.weight / max(1, denominators[term.name]) for term in terms}
    for masked, soft in _output_pairs(terms):
        value, sums = _output(masked, soft, output, batch, scales)
        total, raw = total + value, raw | sums
    for term in terms:
        if isinstance(term.objective, HiddenStatesObjective):
            value = _hidden(term, term.objective, output, batch, projections)
            total = total + scales[term.name] * value
            raw[term.name] = value.detach()
    return total, raw


def _output_pairs(terms: Sequence[Term]) -> list[tuple[Term | None, Term | None]]:
    """Masked LM and soft targets two by two, since one pass over the vocabulary serves one of each."""
    masked = [term for term in terms if isinstance(term.objective, MaskedLMObjective)]
    soft = [term for term in terms if isinstance(term.objective, SoftTargetsObjective)]
    return list(zip_longest(masked, soft))


def _output(
    masked: Term | None, soft: Term | None, output: StudentOutput, batch: Batch, scales: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    assert output.head_states is not None
    temperature: float = 1.0
    tail: Tail = "ghost"
    targets = None
    if soft is not None:
        assert isinstance(soft.objective, SoftTargetsObjective)
        assert batch.targets is not None
        temperature, tail = soft.objective.temperature, soft.objective.tail
        targets = top_k_targets(
            batch.targets.topk_ids[:, : soft.objective.k],
            log_probs=batch.targets.topk_logprobs[:, : soft.objective.k],
            logsumexp=batch.targets.log_partition[1.0],
            logsumexp_t=batch.targets.log_partition.get(temperature),
            temperature=temperature,
        )
    losses = linear_output_losses(
        output.head_states,
        weight=output.decoder_weight,
        bias=output.decoder_bias,
        labels=batch.labels,
        targets=targets,
        masked_lm_scale=scales[masked.name] if masked is not None else 0.0,
        soft_targets_scale=scales[soft.name] if soft is not None else 0.0,
        temperature=temperature,
        tail=tail,
    )
    raw = {masked.name: losses.masked_lm.total} if masked is not None else {}
    return losses.total, raw | ({soft.name: losses.soft_targets.total} if soft is not None else {})


def _hidden(
    term: Term, objective: HiddenStatesObjective, output: StudentOutput, batch: Batch, projections: nn.ModuleDict
) -> Tensor:
    distance = hidden_mse if objective.distance == "mse" else hidden_cosine
    value = torch.zeros((), device=batch.input_ids.device)
    for (student_layer, teacher_layer), key in zip(term.pairs, term.projections, strict=True):
        states = output.hidden[student_layer]
        states = states if key is None else projections[key](states)
        value = value + distance(states, batch.hidden[teacher_layer]).total
    return value
