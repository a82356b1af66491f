"""What objectives ask of a teacher, and what they cannot ask of it."""

from __future__ import annotations

import pytest

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import HiddenStatesObjective, MaskedLMObjective, Objective, SoftTargetsObjective
from orchestrator.errors import ConfigError
from orchestrator.records import SignalRequest
from orchestrator.students.requests import hidden_pairs, requested_signals

MASKED_LM = MaskedLMObjective(type="masked-lm")


def ask(*objectives: Objective, depth: int | None = 4, vocabulary: int = 100, head: bool = True) -> SignalRequest:
    return requested_signals(
        objectives,
        StudentTemplate(layers=2),
        teacher="big",
        teacher_layers=depth,
        teacher_vocabulary=vocabulary,
        teacher_has_head=head,
    )


def test_objectives_add_up_to_one_request() -> None:
    assert ask(MASKED_LM) == ask(MASKED_LM, depth=None) == SignalRequest()
    soft = SoftTargetsObjective(type="soft-targets", k=8, temperature=2.0)
    more = SoftTargetsObjective(type="soft-targets", k=16)
    hidden = HiddenStatesObjective(type="hidden-states", embeddings=True)
    last = HiddenStatesObjective(type="hidden-states", map={1: 3})
    assert ask(MASKED_LM, soft, more, hidden, last) == SignalRequest(16, (2.0,), (0, 2, 3, 4))


def test_pairs_of_layers_are_ascending_and_begin_with_the_embeddings() -> None:
    def pairs(**options: object) -> tuple[tuple[int, int], ...]:
        objective = HiddenStatesObjective.model_validate({"type": "hidden-states"} | options)
        return hidden_pairs(objective, student_layers=3, teacher_layers=12)

    assert pairs() == ((1, 4), (2, 8), (3, 12))
    assert pairs(embeddings=True, map="last") == ((0, 0), (3, 12))
    assert pairs(map={3: 1, 1: 12}) == ((1, 12), (3, 1))


def test_what_a_teacher_cannot_say_is_refused_by_name() -> None:
    soft = SoftTargetsObjective(type="soft-targets", k=64)
    with pytest.raises(ConfigError, match=r"soft-targets.*'big' is a tokenizer alone.*teachers\.big\.model"):
        ask(soft, depth=None)
    with pytest.raises(ConfigError, match=r"'big' has no masked-language-model head"):
        ask(soft, head=False)
    with pytest.raises(ConfigError, match=r"k = 64.*only 40; lower k"):
        ask(soft, vocabulary=40)
    with pytest.raises(ConfigError, match=r"layer"):
        ask(HiddenStatesObjective(type="hidden-states", map={2: 5}))
