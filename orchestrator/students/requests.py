"""Which signals the objectives of a student ask of a teacher; imports no torch, so that `orch plan` stays quick."""

from __future__ import annotations

from collections.abc import Sequence

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
    MatchedObjective,
    Objective,
    RelationsObjective,
    SentenceVectorsObjective,
    SoftmaxRegressionObjective,
    SoftTargetsObjective,
    needs_teacher,
)
from orchestrator.errors import ConfigError
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.models.maps import layer_map
from orchestrator.records import SignalRequest, StateKey, StateKind

_OUTPUT = (HardLabelsObjective, LogitMatchingObjective, SoftTargetsObjective, SoftmaxRegressionObjective)


def matched_layers(
    objective: MatchedObjective, *, student_layers: int, teacher_layers: int
) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) pairs of an objective, ascending; (0, 0) first when it includes embeddings.

    Raises:
        ConfigError: the map leaves the depth of the student or the teacher.
    """
    pairs = layer_map(
        objective.map,
        student_layers=student_layers,
        teacher_layers=teacher_layers,
        option=f"objective {objective.type}, map",
    )
    start = [(0, 0)] if isinstance(objective, HiddenStatesObjective) and objective.embeddings else []
    return tuple(start + sorted(pairs.items()))


def state_kinds(objective: MatchedObjective) -> tuple[StateKind, ...]:
    """The kinds of vector that an objective compares in either model."""
    match objective:
        case HiddenStatesObjective():
            return ("hidden",)
        case RelationsObjective():
            return objective.of
        case _:
            return ("query", "key")


def relation_heads(objective: RelationsObjective, template: StudentTemplate) -> int:
    """Its own number of relation heads, or the student's of attention."""
    return objective.heads or template.heads


def requested_signals(
    objectives: Sequence[Objective], template: StudentTemplate, *, teacher: str, info: CheckpointInfo | None
) -> SignalRequest:
    """What these objectives need of `teacher` on ordinary text (`info` None: it is a tokenizer alone).

    Raises:
        ConfigError: an objective asks for what this teacher cannot say; the text names the objective.
    """
    request = SignalRequest()
    for objective in objectives:
        if not needs_teacher(objective):
            continue
        if info is None:
            raise ConfigError(
                f"Objective {objective.type} needs a model, but teacher '{teacher}' is a tokenizer alone; "
                f"give teachers.{teacher}.model, or keep only masked-lm."
            )
        _check_sizes(objective, template, teacher, info)
        request |= _request(objective, template, teacher, info)
    return request


def _request(objective: Objective, template: StudentTemplate, teacher: str, info: CheckpointInfo) -> SignalRequest:
    if isinstance(objective, _OUTPUT):
        if not info.has_head:
            raise ConfigError(
                f"Objective {objective.type} needs logits, but teacher '{teacher}' has no masked-language-model head; "
                "take a checkpoint of a ...ForMaskedLM model, or distil hidden-states only."
            )
        return SignalRequest(at_all_tokens=objective.positions == "all") | _of_the_output(objective, teacher, info)
    match objective:
        case MaskedLMObjective() | EmbeddingsObjective() | SentenceVectorsObjective() | AnchorsObjective():
            return SignalRequest()
        case _:
            pairs = matched_layers(objective, student_layers=template.layers, teacher_layers=info.depth)
            states = {StateKey(kind, layer) for kind in state_kinds(objective) for _, layer in pairs}
            return SignalRequest(states=tuple(sorted(states)))


def _of_the_output(
    objective: HardLabelsObjective | LogitMatchingObjective | SoftTargetsObjective | SoftmaxRegressionObjective,
    teacher: str,
    info: CheckpointInfo,
) -> SignalRequest:
    match objective:
        case HardLabelsObjective():
            return SignalRequest(top_k=1)
        case SoftTargetsObjective(signal="top-k"):
            if objective.k > info.vocab_size:
                raise ConfigError(
                    f"Objective soft-targets keeps k = {objective.k} ids, but the vocabulary of teacher '{teacher}' "
                    f"has only {info.vocab_size}; lower k."
                )
            extra = () if objective.temperature == 1.0 else (objective.temperature,)
            return SignalRequest(top_k=objective.k, temperatures=extra)
        case SoftTargetsObjective(signal="sampled"):
            return SignalRequest(draws=objective.draws)
        case _:
            return SignalRequest(head_states=True)


def _check_sizes(objective: Objective, template: StudentTemplate, teacher: str, info: CheckpointInfo) -> None:
    """Heads that are compared one by one, widths that meet without a projection, relation heads that divide both."""
    match objective:
        case AttentionScoresObjective() | AttentionProbabilitiesObjective():
            if template.heads != info.heads:
                raise ConfigError(
                    f"Objective {objective.type} compares head by head, but the student has {template.heads} heads and "
                    f"teacher '{teacher}' {info.heads}; give the student as many, or take the objective relations."
                )
        case RelationsObjective():
            heads = relation_heads(objective, template)
            for whose, width in (("student", template.hidden_size), (f"teacher '{teacher}'", info.width)):
                if width % heads:
                    raise ConfigError(
                        f"Objective relations splits {width} values of the {whose} into {heads} relation heads, which "
                        "does not come out even; set 'heads' to a number that divides the widths of both."
                    )
        case HiddenStatesObjective(projection="none") | SentenceVectorsObjective(projection="none"):
            _check_widths(objective, template.hidden_size, teacher, info.width)
        case EmbeddingsObjective(projection="none"):
            _check_widths(objective, template.hidden_size, teacher, info.embedding_width)
        case _:
            pass


def _check_widths(objective: Objective, own: int, teacher: str, width: int) -> None:
    if own != width:
        raise ConfigError(
            f"Objective {objective.type} compares {own} values of the student with {width} of teacher '{teacher}'; "
            "set 'projection: linear', or give the student that hidden_size."
        )
