"""The terms that read what is below the output layer: hidden states, attention, relations, embeddings, sentences.

Shape legend: B rows, L tokens, N tokens without padding, D width (T teacher's, S student's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from orchestrator.config.objectives import (
    AttentionProbabilitiesObjective,
    AttentionScoresObjective,
    EmbeddingsObjective,
    HiddenStatesObjective,
    RelationsObjective,
    SentenceVectorsObjective,
)
from orchestrator.losses.attention import (
    attention_kl,
    attention_pairs,
    attention_scores,
    attention_scores_mse,
    relation_kl,
)
from orchestrator.losses.base import LossSum
from orchestrator.losses.embeddings import embedding_cosine, embedding_mse
from orchestrator.losses.hidden import feature_kl, hidden_cosine, hidden_mse, layer_norm_mse, normalised_mse
from orchestrator.losses.sentences import contrastive, mean_pool, sentence_mse
from orchestrator.records import StateKey
from orchestrator.students.batch import Batch
from orchestrator.students.frozen import KnownTeacher
from orchestrator.students.group import StudentOutput
from orchestrator.students.terms import Projection, Term

_Distance = Callable[[Tensor, Tensor], LossSum]


def layer_value(
    term: Term,
    output: StudentOutput,
    batch: Batch,
    *,
    projections: nn.ModuleDict,
    known: Mapping[str, KnownTeacher],
) -> Tensor | None:
    """The raw sum of one term over a batch, or None for a term of the output layer."""
    match term.objective:
        case HiddenStatesObjective():
            return _hidden(term, term.objective, output, batch, projections)
        case AttentionScoresObjective() | AttentionProbabilitiesObjective():
            return _attention(term, output, batch)
        case RelationsObjective():
            return _relations(term, term.objective, output, batch)
        case EmbeddingsObjective():
            return _embeddings(term, term.objective, output, batch, projections, known[term.teacher])
        case SentenceVectorsObjective():
            return _sentences(term, term.objective, output, batch, projections)
        case _:
            return None


def _hidden(
    term: Term, objective: HiddenStatesObjective, output: StudentOutput, batch: Batch, projections: nn.ModuleDict
) -> Tensor:
    distance = _distance(objective)
    values = []
    for (student_layer, teacher_layer), projection in zip(term.pairs, term.projections, strict=True):
        states = output.states[StateKey("hidden", student_layer)]
        answers = batch.states[StateKey("hidden", teacher_layer)]
        if objective.tokens == "cls":
            states, answers = states[:, 0], answers[batch.first_tokens]
        else:
            states = states.flatten(0, 1)[batch.token_positions]
        values.append(distance(_projected(states, projection, projections), answers).total)
    return torch.stack(values).sum()


def _distance(objective: HiddenStatesObjective) -> _Distance:
    match objective.distance, objective.normalise:
        case "mse", "none":
            return hidden_mse
        case "mse", "l2":
            return normalised_mse
        case "mse", "layer-norm":
            return layer_norm_mse
        case "cosine", _:
            return hidden_cosine
        case _:
            return feature_kl


def _attention(term: Term, output: StudentOutput, batch: Batch) -> Tensor:
    compare = attention_scores_mse if isinstance(term.objective, AttentionScoresObjective) else attention_kl
    values = []
    for (student_layer, teacher_layer), window in zip(term.pairs, term.windows, strict=True):
        own = [output.states[StateKey(kind, student_layer)] for kind in ("query", "key")]
        answers = [batch.padded(StateKey(kind, teacher_layer)) for kind in ("query", "key")]
        values.append(
            compare(
                attention_scores(*own, num_heads=term.heads),
                attention_scores(*answers, num_heads=term.heads),
                pairs=attention_pairs(batch.attention_mask.bool(), window=window),
            ).total
        )
    return torch.stack(values).sum()


def _relations(term: Term, objective: RelationsObjective, output: StudentOutput, batch: Batch) -> Tensor:
    values = []
    for (student_layer, teacher_layer), window in zip(term.pairs, term.windows, strict=True):
        pairs = attention_pairs(batch.attention_mask.bool(), window=window)
        for kind in objective.of:
            own, answer = output.states[StateKey(kind, student_layer)], batch.padded(StateKey(kind, teacher_layer))
            values.append(relation_kl(own, answer, num_relation_heads=term.heads, pairs=pairs).total)
    return torch.stack(values).sum()


def _embeddings(
    term: Term,
    objective: EmbeddingsObjective,
    output: StudentOutput,
    batch: Batch,
    projections: nn.ModuleDict,
    known: KnownTeacher,
) -> Tensor:
    (projection,) = term.projections
    distance = embedding_mse if objective.distance == "mse" else embedding_cosine
    return distance(
        output.embedding_weight,
        known.teacher.word_embeddings,
        student_ids=batch.known_ids,
        teacher_ids=batch.teacher_ids,
        projection=None if projection is None else projections[projection.key],
    ).total


def _sentences(
    term: Term, objective: SentenceVectorsObjective, output: StudentOutput, batch: Batch, projections: nn.ModuleDict
) -> Tensor:
    assert batch.vectors is not None
    vectors = mean_pool(output.last, valid=batch.attention_mask.bool())
    vectors = _projected(vectors, term.projections[0], projections)
    if objective.distance == "contrastive":
        return contrastive(vectors, batch.vectors, temperature=objective.temperature).total
    return sentence_mse(vectors, batch.vectors).total


def _projected(states: Tensor, projection: Projection | None, projections: nn.ModuleDict) -> Tensor:
    projected: Tensor = states if projection is None else projections[projection.key](states)
    return projected
