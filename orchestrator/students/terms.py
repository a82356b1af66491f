"""The objectives of a student on the batches of one teacher: their names, layer pairs, projections and counts.

Shape legend: D width (T teacher's, S student's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.config.objectives import HiddenStatesObjective, MaskedLMObjective, Objective, SoftTargetsObjective
from orchestrator.students.batches import Batch
from orchestrator.students.requests import hidden_pairs
from orchestrator.students.rows import seed_for


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


def make_projections(
    terms: Sequence[Term], *, student_width: int, teacher_width: int, seed: int
) -> dict[str, nn.Module]:
    """A learned linear map W [D_S -> D_T] per key (TinyBERT, Jiao et al. 2020).

    With equal widths it starts at the identity, so that a student which starts as its teacher's layers is compared as
    it is; otherwise at random, keeping the scale of what it maps, from `seed` and its key alone.
    """
    projections: dict[str, nn.Module] = {}
    for key in dict.fromkeys(key for term in terms for key in term.projections if key is not None):
        linear = nn.Linear(student_width, teacher_width, bias=False)
        with torch.no_grad():
            if student_width == teacher_width:
                linear.weight.copy_(torch.eye(teacher_width))
            else:
                own = torch.Generator().manual_seed(seed_for("projection", seed, key))
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
    """How many valid elements each term has in a batch, known before the forward pass.

    Labels and positions with any kept id that the student has; tokens times layer pairs for hidden states.
    """
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


def _projection_key(objective: HiddenStatesObjective, prefix: str, layer: int) -> str | None:
    if objective.projection == "none":
        return None
    place = f"layer_{layer:02d}" if objective.per_layer else "all"
    return f"{prefix}/{place}".replace(".", ":")  # a module's name holds no dot, and names of a run no colon
