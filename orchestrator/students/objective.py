"""From a student's forward pass and the teacher's signals to one number to minimise, and the raw value of each term.

Shape legend: N tokens without padding, M masked positions, K kept ids, V vocabulary, D width (T teacher's, S student's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from orchestrator.config.objectives import (
    HiddenStatesObjective,
    MaskedLMObjective,
    Objective,
    SoftTargetsObjective,
)
from orchestrator.losses.fused import linear_output_losses
from orchestrator.losses.hidden import hidden_cosine, hidden_mse
from orchestrator.losses.targets import Tail, top_k_targets
from orchestrator.students.batches import Batch
from orchestrator.students.group import StudentOutput
from orchestrator.students.requests import hidden_pairs


@dataclass(frozen=True)
class Term:
    """One objective of one student under the name that metrics show, with its layer pairs and projections' keys."""

    name: str
    objective: Objective
    pairs: tuple[tuple[int, int], ...] = ()
    projections: tuple[str | None, ...] = ()  # one per pair


def make_terms(
    objectives: Sequence[Objective], *, owner: str, teacher: str, student_layers: int, teacher_layers: int | None
) -> tuple[Term, ...]:
    """Name the objectives (`masked-lm`, `hidden-states`, `hidden-states-2`, …) and settle their layer pairs.

    `owner` and `teacher` decide which projections are the same: those of one student, or of all that share them.
    """
    terms: list[Term] = []
    for objective in objectives:
        seen = sum(term.objective.type == objective.type for term in terms)
        name = objective.type if not seen else f"{objective.type}-{seen + 1}"
        if not isinstance(objective, HiddenStatesObjective):
            terms.append(Term(name, objective))
            continue
        assert teacher_layers is not None
        pairs = hidden_pairs(objective, student_layers=student_layers, teacher_layers=teacher_layers)
        keys = tuple(_projection_key(objective, f"{owner}/{teacher}/{name}", pair[0]) for pair in pairs)
        terms.append(Term(name, objective, pairs, keys))
    return tuple(terms)


def _projection_key(objective: HiddenStatesObjective, prefix: str, layer: int) -> str | None:
    if objective.projection == "none":
        return None
    place = f"layer_{layer:02d}" if objective.per_layer else "all"
    return f"{prefix}/{place}".replace(".", "_")  # a module's name holds no dot


def make_projections(
    terms: Sequence[Term], *, student_width: int, teacher_width: int, seed: int
) -> dict[str, nn.Module]:
    """A learned linear map W [D_S -> D_T] per key (TinyBERT, Jiao et al. 2020).

    With equal widths it starts at the identity, so that a student which starts as its teacher's layers is compared as
    it is; otherwise at random, keeping the scale of what it maps.
    """
    projections: dict[str, nn.Module] = {}
    for key in dict.fromkeys(key for term in terms for key in term.projections if key is not None):
        linear = nn.Linear(student_width, teacher_width, bias=False)
        with torch.no_grad():
            if student_width == teacher_width:
                linear.weight.copy_(torch.eye(teacher_width))
            else:
                own = torch.Generator().manual_seed(seed)
                linear.weight.normal_(std=float(student_width) ** -0.5, generator=own)
        projections[key] = linear
    return projections


def student_layers(terms: Sequence[Term]) -> tuple[int, ...]:
    """Layers whose hidden states the terms read."""
    return tuple(sorted({layer for term in terms for layer, _ in term.pairs}))


def needs_head(terms: Sequence[Term]) -> bool:
    """Whether any term reads the output layer."""
    return any(not isinstance(term.objective, HiddenStatesObjective) for term in terms)


def counts(terms: Sequence[Term], batch: Batch) -> dict[str, int]:
    """How many valid elements each term has in a batch, known before the forward pass."""
    found: dict[str, int] = {}
    for term in terms:
        match term.objective:
            case MaskedLMObjective():
                found[term.name] = int((batch.labels >= 0).sum())
            case SoftTargetsObjective():
                assert batch.targets is not None
                found[term.name] = int((batch.targets.topk_ids[:, : term.objective.k] >= 0).any(-1).sum())
            case HiddenStatesObjective():
                found[term.name] = batch.num_tokens * len(term.pairs)
    return found


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
