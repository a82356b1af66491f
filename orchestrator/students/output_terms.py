"""The terms that read the output layer: masked LM, hard labels, soft targets, logit matching, softmax regression.

Shape legend: P positions that are compared, K kept ids, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from torch import Tensor, nn

from orchestrator.config.objectives import (
    HardLabelsObjective,
    LogitMatchingObjective,
    MaskedLMObjective,
    Positions,
    SoftmaxRegressionObjective,
    SoftTargetsObjective,
)
from orchestrator.losses.fused import linear_output_losses
from orchestrator.losses.matching import linear_logit_matching
from orchestrator.losses.regression import softmax_regression
from orchestrator.losses.targets import ExactTargets, SparseTargets, Tail, sampled_targets, top_k_targets
from orchestrator.students.batch import Batch
from orchestrator.students.frozen import KnownTeacher
from orchestrator.students.group import StudentOutput
from orchestrator.students.terms import Term

_LABELS = (MaskedLMObjective, HardLabelsObjective)


def head_positions(terms: Sequence[Term]) -> Positions | None:
    """Where the student's head must run for these terms; None: nowhere."""
    wanted = {
        term.objective.positions
        for term in terms
        if isinstance(term.objective, HardLabelsObjective | SoftTargetsObjective | LogitMatchingObjective)
    }
    if "all" in wanted:
        return "all"
    return "masked" if wanted or any(isinstance(term.objective, MaskedLMObjective) for term in terms) else None


def output_values(
    terms: Sequence[Term],
    output: StudentOutput,
    batch: Batch,
    *,
    scales: Mapping[str, float],
    projections: nn.ModuleDict,
    known: Mapping[str, KnownTeacher],
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """(what is to be minimised, raw sums by term) of these terms; `scales`: weight over the count of the whole step."""
    labelled = [term for term in terms if isinstance(term.objective, _LABELS)]
    soft = [term for term in terms if isinstance(term.objective, SoftTargetsObjective)]
    for label_term, soft_term in _together(labelled, soft):
        yield _label_and_soft(label_term, soft_term, output, batch, scales, known)
    for term in terms:
        match term.objective:
            case LogitMatchingObjective():
                value = _logit_matching(term.objective, output, batch, known[term.teacher])
            case SoftmaxRegressionObjective():
                value = _regression(term, term.objective, output, batch, projections, known[term.teacher])
            case _:
                continue
        yield scales[term.name] * value, {term.name: value.detach()}


def _together(labelled: Sequence[Term], soft: Sequence[Term]) -> list[tuple[Term | None, Term | None]]:
    """One with labels and one with soft targets at the same positions, since one pass over the vocabulary serves both.

    Masked LM has its labels at masked positions, and goes along wherever it is taken.
    """
    pairs: list[tuple[Term | None, Term | None]] = []
    for positions in ("all", "masked"):
        here = [term for term in soft if _positions(term) == positions]
        same = [term for term in labelled if _positions(term) == positions]
        if len(same) < len(here):
            free = [term for term in labelled if _positions(term) is None and not _is_in(term, pairs)]
            same += free[: len(here) - len(same)]
        pairs += zip_longest(same, here)
    return pairs + [(term, None) for term in labelled if not _is_in(term, pairs)]


def _is_in(term: Term, pairs: Sequence[tuple[Term | None, Term | None]]) -> bool:
    return any(term is one for one, _ in pairs)


def _positions(term: Term) -> Positions | None:
    match term.objective:
        case HardLabelsObjective() | SoftTargetsObjective():
            return term.objective.positions
        case _:
            return None


def _label_and_soft(
    labelled: Term | None,
    soft: Term | None,
    output: StudentOutput,
    batch: Batch,
    scales: Mapping[str, float],
    known: Mapping[str, KnownTeacher],
) -> tuple[Tensor, dict[str, Tensor]]:
    positions = (soft and _positions(soft)) or (labelled and _positions(labelled)) or "masked"
    labels = batch.labels_at(positions)
    if labelled is not None and isinstance(labelled.objective, HardLabelsObjective):
        labels = batch.targets_at(positions).topk_ids[:, 0]
    temperature: float = 1.0
    tail: Tail = "drop"
    targets: SparseTargets | ExactTargets | None = None
    if soft is not None:
        assert isinstance(soft.objective, SoftTargetsObjective)
        temperature = soft.objective.temperature
        tail = soft.objective.tail if soft.objective.signal == "top-k" else "drop"
        targets = _targets(soft.objective, batch, known.get(soft.teacher))
    losses = linear_output_losses(
        output.head_states_at(positions, batch),
        weight=output.decoder_weight,
        bias=output.decoder_bias,
        labels=labels,
        targets=targets,
        masked_lm_scale=scales[labelled.name] if labelled is not None else 0.0,
        soft_targets_scale=scales[soft.name] if soft is not None else 0.0,
        temperature=temperature,
        tail=tail,
    )
    raw = {labelled.name: losses.masked_lm.total} if labelled is not None else {}
    return losses.total, raw | ({soft.name: losses.soft_targets.total} if soft is not None else {})


def _targets(objective: SoftTargetsObjective, batch: Batch, known: KnownTeacher | None) -> SparseTargets | ExactTargets:
    said = batch.targets_at(objective.positions)
    match objective.signal:
        case "top-k":
            return top_k_targets(
                said.topk_ids[:, : objective.k],
                log_probs=said.topk_logprobs[:, : objective.k],
                logsumexp=said.log_partition.get(1.0),
                logsumexp_t=said.log_partition.get(objective.temperature),
                temperature=objective.temperature,
            )
        case "sampled":
            return sampled_targets(said.drawn_ids, counts=said.drawn_counts)
        case "exact":
            assert known is not None
            teacher = known.teacher
            return ExactTargets(said.head_states, teacher.decoder_weight, teacher.decoder_bias, known.student_ids)


def _logit_matching(
    objective: LogitMatchingObjective, output: StudentOutput, batch: Batch, known: KnownTeacher
) -> Tensor:
    return linear_logit_matching(
        output.head_states_at(objective.positions, batch),
        weight=output.decoder_weight,
        bias=output.decoder_bias,
        teacher_states=batch.targets_at(objective.positions).head_states,
        teacher_weight=known.teacher.decoder_weight,
        teacher_bias=known.teacher.decoder_bias,
        columns=known.columns,
        centred=objective.centre,
    ).total


def _regression(
    term: Term,
    objective: SoftmaxRegressionObjective,
    output: StudentOutput,
    batch: Batch,
    projections: nn.ModuleDict,
    known: KnownTeacher,
) -> Tensor:
    (connector,) = term.projections
    assert connector is not None
    teacher = known.teacher
    return softmax_regression(
        projections[connector.key](output.last.flatten(0, 1)[batch.positions_at(objective.positions)]),
        batch.targets_at(objective.positions).head_states,
        weight=teacher.decoder_weight,
        bias=teacher.decoder_bias,
        transform=teacher.transform if objective.transform else None,
        distance=objective.distance,
    ).total
