"""Terms of a student: names, pairs of layers, projections and what counts as valid."""

from __future__ import annotations

import torch

from orchestrator.config.objectives import HiddenStatesObjective, SoftTargetsObjective
from orchestrator.students.batches import Batch, TeacherTargets
from orchestrator.students.terms import Term, counts, make_projections, make_terms, needs_head, student_layers
from tests.students.tiny import ALL, HIDDEN, MASKED_LM, SOFT

LAST = HiddenStatesObjective(type="hidden-states", map="last", projection="none")
ONE_FOR_ALL = HiddenStatesObjective(type="hidden-states", per_layer=False)


def terms_of(*objectives: object, owner: str = "ann", teacher: str = "big.one") -> tuple[Term, ...]:
    return make_terms(objectives, owner=owner, teacher=teacher, student_layers=2, teacher_layers=4)  # type: ignore[arg-type]


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
    assert terms[2].projections == tuple(f"ann/big:one/hidden-states/layer_0{layer}" for layer in (0, 1, 2))
    assert (terms[3].pairs, terms[3].projections) == (((2, 4),), (None,))
    assert set(terms[4].projections) == {"ann/big:one/hidden-states-3/all"}
    assert student_layers(terms) == (0, 1, 2)
    assert needs_head(terms)
    assert not needs_head(terms_of(HIDDEN, LAST))
    assert student_layers(terms_of(MASKED_LM)) == ()


def test_projections_depend_on_seed_and_key_alone() -> None:
    own = make_projections(terms_of(HIDDEN), student_width=6, teacher_width=10, seed=1)
    assert [tuple(module.weight.shape) for module in own.values()] == [(10, 6)] * 3
    first, second = list(own.values())[:2]
    assert not torch.equal(first.weight, second.weight)
    more = make_projections(terms_of(LAST, HIDDEN), student_width=6, teacher_width=10, seed=1)
    assert more.keys() == {key.replace("hidden-states", "hidden-states-2") for key in own}
    again = make_projections(terms_of(HIDDEN), student_width=6, teacher_width=10, seed=1)
    other = make_projections(terms_of(HIDDEN), student_width=6, teacher_width=10, seed=2)
    for key, module in own.items():
        assert torch.equal(module.weight, again[key].weight)
        assert not torch.equal(module.weight, other[key].weight)
    same_width = make_projections(terms_of(HIDDEN), student_width=6, teacher_width=6, seed=1)
    assert all(torch.equal(module.weight, torch.eye(6)) for module in same_width.values())


def test_counts_are_of_valid_elements_only() -> None:
    targets = TeacherTargets(
        topk_ids=torch.tensor([[-1, 3, 4], [-1, -1, 5], [7, -1, -1], [-1, -1, -1]]),
        topk_logprobs=torch.zeros(4, 3),
        log_partition={1.0: torch.zeros(4)},
    )
    batch = Batch(
        language="aa",
        input_ids=torch.zeros(2, 4, dtype=torch.int64),
        attention_mask=torch.ones(2, 4, dtype=torch.int64),
        token_positions=torch.arange(7),
        masked_positions=torch.arange(4),
        labels=torch.tensor([5, -1, 0, -1]),
        targets=targets,
        hidden={},
    )
    two = SoftTargetsObjective(type="soft-targets", k=2)
    three = SoftTargetsObjective(type="soft-targets", k=3)
    assert counts(terms_of(MASKED_LM, two, three, HIDDEN), batch) == {
        "masked-lm": 2,
        "soft-targets": 2,
        "soft-targets-2": 3,
        "hidden-states": 7 * 3,
    }
