"""Which signals the objectives of a student ask of a teacher; imports no torch, so that `orch plan` stays quick."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import HiddenStatesObjective, Objective, SoftTargetsObjective
from orchestrator.errors import ConfigError
from orchestrator.models.maps import layer_map
from orchestrator.records import SignalRequest


def hidden_pairs(
    objective: HiddenStatesObjective, *, student_layers: int, teacher_layers: int
) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) pairs of an objective, ascending; (0, 0) first when it includes embeddings.

    Raises:
        ConfigError: the map leaves the depth of the student or the teacher.
    """
    pairs = layer_map(
        objective.map,
        student_layers=student_layers,
        teacher_layers=teacher_layers,
        option="objective hidden-states, map",
    )
    start = [(0, 0)] if objective.embeddings else []
    return tuple(start + sorted(pairs.items()))


def requested_signals(
    objectives: Sequence[Objective],
    template: StudentTemplate,
    *,
    teacher: str,
    teacher_layers: int | None,
    teacher_vocabulary: int,
    teacher_has_head: bool,
) -> SignalRequest:
    """What these objectives need of `teacher` (`teacher_layers` None: it is a tokenizer alone).

    Raises:
        ConfigError: an objective asks for what this teacher cannot say; the text names the objective.
    """
    request = SignalRequest()
    for objective in objectives:
        if objective.type == "masked-lm":
            continue
        if teacher_layers is None:
            raise ConfigError(
                f"Objective {objective.type} needs a model, but teacher '{teacher}' is a tokenizer alone; "
                f"give teachers.{teacher}.model, or keep only masked-lm."
            )
        if isinstance(objective, SoftTargetsObjective):
            if not teacher_has_head:
                raise ConfigError(
                    f"Objective soft-targets needs logits, but teacher '{teacher}' has no masked-language-model head; "
                    "take a checkpoint of a ...ForMaskedLM model, or distil hidden-states only."
                )
            if objective.k > teacher_vocabulary:
                raise ConfigError(
                    f"Objective soft-targets keeps k = {objective.k} ids, but the vocabulary of teacher '{teacher}' "
                    f"has only {teacher_vocabulary}; lower k."
                )
            extra = () if objective.temperature == 1.0 else (objective.temperature,)
            request |= SignalRequest(top_k=objective.k, temperatures=extra)
        else:
            pairs = hidden_pairs(objective, student_layers=template.layers, teacher_layers=teacher_layers)
            request |= SignalRequest(hidden_layers=tuple(sorted({layer for _, layer in pairs})))
    return request
