"""What objectives ask of a teacher, and what they cannot ask of it."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import HiddenStatesObjective, MaskedLMObjective, Objective, SoftTargetsObjective
from orchestrator.errors import ConfigError
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.records import SignalRequest, StateKey
from orchestrator.students.requests import matched_layers, requested_signals

MASKED_LM = MaskedLMObjective(type="masked-lm")


def ask(*objectives: Objective, depth: int | None = 4, vocabulary: int = 100, head: bool = True) -> SignalRequest:
    info = depth and CheckpointInfo("bert", depth, 64, 4, vocabulary, head, 1000, 64, (None,) * depth)
    return requested_signals(objectives, StudentTemplate(layers=2), teacher="big", info=info or None)


def test_objectives_add_up_to_one_request() -> None:
    assert ask(MASKED_LM) == ask(MASKED_LM, depth=None) == SignalRequest()
    soft = SoftTargetsObjective(type="soft-targets", k=8, temperature=2.0)
    more = SoftTargetsObjective(type="soft-targets", k=16)
    hidden = HiddenStatesObjective(type="hidden-states", embeddings=True)
    last = HiddenStatesObjective(type="hidden-states", map={1: 3})
    assert ask(MASKED_LM, soft, more, hidden, last) == SignalRequest(
        top_k=16, temperatures=(2.0,), states=tuple(StateKey("hidden", layer) for layer in (0, 2, 3, 4))
    )


def test_pairs_of_layers_are_ascending_and_begin_with_the_embeddings() -> None:
    def pairs(**options: object) -> tuple[tuple[int, int], ...]:
        objective = HiddenStatesObjective.model_validate({"type": "hidden-states"} | options)
        return matched_layers(objective, student_layers=3, teacher_layers=12)

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


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ({"type": "hard-labels"}, SignalRequest(top_k=1)),
        ({"type": "hard-labels", "positions": "all"}, SignalRequest(top_k=1, at_all_tokens=True)),
        ({"type": "soft-targets", "signal": "sampled"}, SignalRequest(draws=50)),
        ({"type": "soft-targets", "signal": "exact", "temperature": 4.0}, SignalRequest(head_states=True)),
        ({"type": "logit-matching"}, SignalRequest(head_states=True)),
        ({"type": "softmax-regression"}, SignalRequest(head_states=True)),
        ({"type": "embeddings"}, SignalRequest()),
        ({"type": "sentence-vectors", "pivot": "en"}, SignalRequest()),
        ({"type": "attention-scores", "map": "last"}, SignalRequest(states=(StateKey("key", 4), StateKey("query", 4)))),
        (
            {"type": "relations", "of": ["value"], "map": "uniform"},
            SignalRequest(states=(StateKey("value", 2), StateKey("value", 4))),
        ),
    ],
)
def test_what_each_objective_asks_for(options: dict[str, object], request_: SignalRequest) -> None:
    parsed: Objective = TypeAdapter(Objective).validate_python(options)
    assert ask(parsed) == request_
