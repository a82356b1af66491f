"""Terms of a student: names, pairs of layers, projections and what counts as valid."""

from __future__ import annotations

import torch

from orchestrator.config.objectives import (
    AttentionScoresObjective,
    EmbeddingsObjective,
    HiddenStatesObjective,
    RelationsObjective,
    SoftTargetsObjective,
)
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.records import StateKey
from orchestrator.students.batch import Batch, TeacherTargets
from orchestrator.students.output_terms import head_positions
from orchestrator.students.terms import Term, counts, make_projections, make_terms
from tests.students.tiny import ALL, HIDDEN, MASKED_LM, SOFT, STUDENT

LAST = HiddenStatesObjective(type="hidden-states", map="last", projection="none")
ONE_FOR_ALL = HiddenStatesObjective(type="hidden-states", per_layer=False)


def terms_of(*objectives: object, owner: str = "ann", teacher: str = "big.one", width: int = 10) -> tuple[Term, ...]:
    return make_terms(
        objectives,  # type: ignore[arg-type]
        STUDENT,
        owner=owner,
        teacher=teacher,
        info=CheckpointInfo("bert", 4, width, 2, 100, True, 1000, width, (None, 5, 3, None)),
        windows=(4, None),
    )


def test_terms_have_names_pairs_and_projections() -> None:
    terms = terms_of(*ALL, LAST, ONE_FOR_ALL, SOFT)
    assert [term.name for term in terms] == [
        "masked-lm",
        "soft-targets",
        "hidden-states",
        "hidden-states-2",
        "hidden-states-3",
        "soft-targets-2",
    ]
    assert terms[2].pairs == ((0, 0), (1, 2), (2, 4))
    assert [p and p.key for p in terms[2].projections] == [f"ann/big:one/hidden-states/layer_0{n}" for n in (0, 1, 2)]
    assert (terms[3].pairs, terms[3].projections) == (((2, 4),), (None,))
    assert {p and p.key for p in terms[4].projections} == {"ann/big:one/hidden-states-3/all"}
    assert terms[2].student_states == tuple(StateKey("hidden", layer) for layer in (0, 1, 2))
    assert terms[0].student_states == ()
    assert head_positions(terms) == "masked"
    assert head_positions(terms_of(HIDDEN, LAST)) is None
    assert head_positions(terms_of(SOFT.model_copy(update={"positions": "all"}), MASKED_LM)) == "all"


def test_attention_is_compared_where_both_layers_look() -> None:
    (term,) = terms_of(AttentionScoresObjective(type="attention-scores"))
    assert term.pairs == ((1, 2), (2, 4))
    assert term.windows == (4, None)  # of 4 and 5; of everywhere and everywhere
    (term,) = terms_of(AttentionScoresObjective(type="attention-scores", map={1: 3, 2: 3}))
    assert term.windows == (3, 3)
    assert term.student_states == tuple(StateKey(kind, layer) for layer in (1, 2) for kind in ("query", "key"))


def test_projections_depend_on_seed_and_key_alone() -> None:
    own = make_projections(terms_of(HIDDEN), seed=1)
    assert [tuple(module.weight.shape) for module in own.values()] == [(10, 16)] * 3
    first, second = list(own.values())[:2]
    assert not torch.equal(first.weight, second.weight)
    more = make_projections(terms_of(LAST, HIDDEN), seed=1)
    assert more.keys() == {key.replace("hidden-states", "hidden-states-2") for key in own}
    again, other = make_projections(terms_of(HIDDEN), seed=1), make_projections(terms_of(HIDDEN), seed=2)
    for key, module in own.items():
        assert torch.equal(module.weight, again[key].weight)
        assert not torch.equal(module.weight, other[key].weight)
    same_width = make_projections(terms_of(HIDDEN, width=16), seed=1)
    assert all(torch.equal(module.weight, torch.eye(16)) for module in same_width.values())


def test_a_gelu_projection_has_a_bias_and_bends() -> None:
    gelu = HiddenStatesObjective(type="hidden-states", projection="gelu", map="last")
    (module,) = make_projections(terms_of(gelu), seed=1).values()
    states = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    linear = module[0]  # type: ignore[index]
    torch.testing.assert_close(module(states), torch.nn.functional.gelu(linear(states)))
    assert linear.bias is not None


def test_counts_are_of_valid_elements_only() -> None:
    targets = TeacherTargets(
        topk_ids=torch.tensor([[-1, 3, 4], [-1, -1, 5], [7, -1, -1], [-1, -1, -1]]),
        topk_logprobs=torch.zeros(4, 3),
        drawn_ids=torch.tensor([[-1, 3], [2, 1], [-1, -1], [4, -1]]),
        drawn_counts=torch.tensor([[1, 1], [2, 0], [2, 0], [0, 0]]),
        head_states=torch.zeros(4, 10),
        log_partition={1.0: torch.zeros(4)},
    )
    batch = Batch(
        language="aa",
        input_ids=torch.zeros(2, 4, dtype=torch.int64),
        attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        token_positions=torch.arange(7),
        first_tokens=torch.tensor([0, 4]),
        masked_positions=torch.arange(4),
        masked_tokens=torch.arange(4),
        labels=torch.tensor([5, -1, 0, -1]),
        teacher_ids=torch.arange(7),
        known_ids=torch.tensor([0, 1, -1, 3, -1, 5, 6]),
        at_all_tokens=False,
        targets=targets,
        states={},
    )
    two = SoftTargetsObjective(type="soft-targets", k=2)
    three = SoftTargetsObjective(type="soft-targets", k=3)
    drawn = SoftTargetsObjective(type="soft-targets", signal="sampled")
    exact = SoftTargetsObjective(type="soft-targets", signal="exact")
    assert counts(terms_of(MASKED_LM, two, three, drawn, exact, HIDDEN), batch) == {
        "masked-lm": 2,
        "soft-targets": 2,
        "soft-targets-2": 3,
        "soft-targets-3": 2,
        "soft-targets-4": 4,
        "hidden-states": 7 * 3,
    }
    cls = HiddenStatesObjective(type="hidden-states", tokens="cls")
    scores = AttentionScoresObjective(type="attention-scores", map={2: 4})
    local = AttentionScoresObjective(type="attention-scores", map={2: 3})  # no further than 3 apart: everything here
    relations = RelationsObjective(type="relations", of=("query", "value"), heads=5)
    assert counts(terms_of(cls, scores, local, relations, EmbeddingsObjective(type="embeddings")), batch) == {
        "hidden-states": 2 * 2,
        "attention-scores": 2 * (16 + 9),
        "attention-scores-2": 2 * (16 + 9),
        "relations": 5 * 7 * 2,
        "embeddings": 5,
    }
