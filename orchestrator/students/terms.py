"""The objectives of a student on the batches of one teacher: their names, layer pairs, projections and counts.

Shape legend: D width (T teacher's, S student's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import (
    AnchorsObjective,
    AttentionProbabilitiesObjective,
    AttentionScoresObjective,
    EmbeddingsObjective,
    HardLabelsObjective,
    HiddenStatesObjective,
    LogitMatchingObjective,
    MaskedLMObjective,
    Objective,
    RelationsObjective,
    SentenceVectorsObjective,
    SoftmaxRegressionObjective,
    SoftTargetsObjective,
    needs_teacher,
)
from orchestrator.losses.attention import attention_pairs
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.records import StateKey
from orchestrator.students.batch import Batch
from orchestrator.students.requests import matched_layers, relation_heads, state_kinds
from orchestrator.students.rows import seed_for


@dataclass(frozen=True)
class Projection:
    """A learned map from the student's width to the teacher's, under the key by which those that share it find it."""

    key: str
    kind: Literal["linear", "gelu"]
    student_width: int
    teacher_width: int


@dataclass(frozen=True)
class Term:
    """One objective of one student under the name that metrics show.

    `pairs`: (student layer, teacher layer). `windows`: of each pair, how many positions apart both layers look; None is
    everywhere. `heads`: of attention or of relations. `projections`: one per pair, or one where there are no pairs.
    """

    name: str
    objective: Objective
    teacher: str
    pairs: tuple[tuple[int, int], ...] = ()
    windows: tuple[int | None, ...] = ()
    heads: int = 0
    projections: tuple[Projection | None, ...] = ()

    @property
    def student_states(self) -> tuple[StateKey, ...]:
        """What the term reads of the student's layers."""
        match self.objective:
            case (
                HiddenStatesObjective()
                | AttentionScoresObjective()
                | AttentionProbabilitiesObjective()
                | RelationsObjective()
            ) as matched:
                return tuple(StateKey(kind, layer) for layer, _ in self.pairs for kind in state_kinds(matched))
            case _:
                return ()

    @property
    def reads_sentences(self) -> bool:
        """Whether it is for batches of parallel sentences, and not for masked text."""
        return isinstance(self.objective, SentenceVectorsObjective)

    @property
    def reads_embeddings(self) -> bool:
        """Whether it is about the word embeddings of the whole group once a step, and not for any batch."""
        return isinstance(self.objective, AnchorsObjective)


def make_terms(
    objectives: Sequence[Objective],
    template: StudentTemplate,
    *,
    owner: str,
    teacher: str,
    info: CheckpointInfo | None,
    windows: Sequence[int | None],
) -> tuple[Term, ...]:
    """Name the objectives (`masked-lm`, `hidden-states`, `hidden-states-2`, …) and settle layers and projections.

    `owner` and `teacher` decide which projections are the same: those of one student, or of all that share them.
    `windows`: how far each of the student's layers looks.
    """
    terms: list[Term] = []
    for objective in objectives:
        seen = sum(term.objective.type == objective.type for term in terms)
        name = objective.type if not seen else f"{objective.type}-{seen + 1}"
        if not needs_teacher(objective):
            terms.append(Term(name, objective, teacher))
            continue
        assert info is not None
        prefix = f"{owner}/{teacher}/{name}"
        terms.append(_term(name, objective, template, prefix=prefix, teacher=teacher, info=info, windows=windows))
    return tuple(terms)


def _term(
    name: str,
    objective: Objective,
    template: StudentTemplate,
    *,
    prefix: str,
    teacher: str,
    info: CheckpointInfo,
    windows: Sequence[int | None],
) -> Term:
    width = template.hidden_size

    def projection(kind: Literal["none", "linear", "gelu"], place: str, teacher_width: int) -> Projection | None:
        # A module's name holds no dot, and names of a run no colon.
        return None if kind == "none" else Projection(f"{prefix}/{place}".replace(".", ":"), kind, width, teacher_width)

    match objective:
        case HiddenStatesObjective():
            pairs = matched_layers(objective, student_layers=template.layers, teacher_layers=info.depth)
            projections = tuple(
                projection(objective.projection, f"layer_{layer:02d}" if objective.per_layer else "all", info.width)
                for layer, _ in pairs
            )
            return Term(name, objective, teacher, pairs, projections=projections)
        case AttentionScoresObjective() | AttentionProbabilitiesObjective() | RelationsObjective():
            pairs = matched_layers(objective, student_layers=template.layers, teacher_layers=info.depth)
            heads = relation_heads(objective, template) if isinstance(objective, RelationsObjective) else template.heads
            nearest = tuple(_narrower(windows[m - 1], info.windows[n - 1]) for m, n in pairs)
            return Term(name, objective, teacher, pairs, nearest, heads)
        case SoftmaxRegressionObjective():
            reads = info.width if objective.transform else info.embedding_width
            return Term(name, objective, teacher, projections=(projection("linear", "connector", reads),))
        case EmbeddingsObjective():
            place = projection(objective.projection, "embedding", info.embedding_width)
            return Term(name, objective, teacher, projections=(place,))
        case SentenceVectorsObjective():
            return Term(
                name, objective, teacher, projections=(projection(objective.projection, "sentence", info.width),)
            )
        case _:
            return Term(name, objective, teacher)


def _narrower(one: int | None, other: int | None) -> int | None:
    return min((window for window in (one, other) if window is not None), default=None)


def make_projections(terms: Sequence[Term], *, seed: int) -> dict[str, nn.Module]:
    """The learned maps of some terms by key: H·W (TinyBERT, Jiao et al. 2020), or GELU(H·W + b) (XtremeDistil).

    With equal widths W starts at the identity, so that a student which starts as its teacher's layers is compared as
    it is; otherwise at random, keeping the scale of what it maps, from `seed` and its key alone.
    """
    found = {projection.key: projection for term in terms for projection in term.projections if projection is not None}
    return {key: _made(projection, seed) for key, projection in found.items()}


def _made(projection: Projection, seed: int) -> nn.Module:
    linear = nn.Linear(projection.student_width, projection.teacher_width, bias=projection.kind == "gelu")
    with torch.no_grad():
        if projection.student_width == projection.teacher_width:
            linear.weight.copy_(torch.eye(projection.teacher_width))
        else:
            own = torch.Generator().manual_seed(seed_for("projection", seed, projection.key))
            linear.weight.normal_(std=float(projection.student_width) ** -0.5, generator=own)
        if projection.kind == "gelu":
            linear.bias.zero_()
    return linear if projection.kind == "linear" else nn.Sequential(linear, nn.GELU())


def counts(terms: Sequence[Term], batch: Batch) -> dict[str, int]:
    """How many valid elements each term has in a batch, known before the forward pass.

    Positions that say anything to this student; tokens, or rows for [CLS], times layer pairs; heads times rows, or
    pairs of tokens, of the attention matrices times layer pairs; sentences.
    """
    return {term.name: _count(term, batch) for term in terms}


def _count(term: Term, batch: Batch) -> int:
    objective = term.objective
    match objective:
        case MaskedLMObjective():
            return int((batch.labels >= 0).sum())
        case HardLabelsObjective():
            return int(batch.targets_at(objective.positions).known_top_k(1).sum())
        case SoftTargetsObjective(signal="top-k"):
            return int(batch.targets_at(objective.positions).known_top_k(objective.k).sum())
        case SoftTargetsObjective(signal="sampled"):
            return int(batch.targets_at(objective.positions).known_draws().sum())
        case SoftTargetsObjective() | LogitMatchingObjective() | SoftmaxRegressionObjective():
            return len(batch.positions_at(objective.positions))
        case HiddenStatesObjective():
            return (batch.num_tokens if objective.tokens == "all" else len(batch.input_ids)) * len(term.pairs)
        case AttentionScoresObjective():
            valid = batch.attention_mask.bool()
            return term.heads * sum(int(attention_pairs(valid, window=window).sum()) for window in term.windows)
        case AttentionProbabilitiesObjective():
            return term.heads * batch.num_tokens * len(term.pairs)
        case RelationsObjective():
            return term.heads * batch.num_tokens * len(term.pairs) * len(objective.of)
        case EmbeddingsObjective():
            return int((batch.known_ids >= 0).sum())
        case SentenceVectorsObjective():
            return len(batch.input_ids)
        case AnchorsObjective():
            return 0  # none of a batch
