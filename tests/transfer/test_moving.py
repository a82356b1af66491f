"""What was trained in one student arrives in another, weight by weight."""

from __future__ import annotations

import copy

import pytest
import torch

from orchestrator.errors import DataError
from orchestrator.models.encoder import Encoder
from orchestrator.transfer.job import Student, Training
from orchestrator.transfer.moving import add_difference, move_parts
from orchestrator.transfer.parts import base_weights, prepare
from tests.models.tiny import VOCAB_SIZE, build, padded_batch

ONE = (Student("one", "one"),)
TOKENS = {f"t{number}": number for number in range(VOCAB_SIZE)}


def shifted(encoder: Encoder, by: float) -> Encoder:
    changed = copy.deepcopy(encoder)
    with torch.no_grad():
        for weight in base_weights(changed).values():
            weight.add_(by)
    return changed


def test_the_difference_is_added_to_every_weight() -> None:
    base, target = build("bert", seed=0), build("bert", seed=1)
    before = {name: weight.clone() for name, weight in base_weights(target).items()}
    add_difference(tuned=shifted(base, 0.5), base=base, target=target, source_tokens=TOKENS, target_tokens=TOKENS)
    for name, weight in base_weights(target).items():
        torch.testing.assert_close(weight, before[name] + 0.5, rtol=0, atol=1e-6)


def test_from_a_student_to_itself_it_is_the_tuned_student() -> None:
    base = build("roberta")
    tuned, target = build("roberta", seed=3), copy.deepcopy(base)
    add_difference(tuned=tuned, base=base, target=target, source_tokens=TOKENS, target_tokens=TOKENS)
    wanted = base_weights(tuned)
    for name, weight in base_weights(target).items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=1e-6)


def test_word_vectors_move_where_both_have_the_token() -> None:
    base, target = build("bert"), build("bert", seed=1)
    before = target.word_embeddings.weight.clone()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.word_embeddings.weight.add_(torch.arange(VOCAB_SIZE)[:, None])
    own = {"t7": 3, "t9": 4, "new": 5}
    add_difference(tuned=tuned, base=base, target=target, source_tokens=TOKENS, target_tokens=own)
    change = (target.word_embeddings.weight - before).mean(dim=1)
    assert change[[3, 4, 5, 7]].tolist() == pytest.approx([7, 9, 0, 0], abs=1e-4)
    assert change.abs().sum().item() == pytest.approx(16, abs=1e-3)


def test_top_layers_are_put_in_place_of_the_targets() -> None:
    source, target = build("bert"), build("bert", seed=1)
    below = target.layers[0].state_dict()["output.dense.weight"].clone()
    words = target.word_embeddings.weight.clone()
    parts = prepare([source], Training("freeze", ONE, 0, top=2), adapter_width=4)
    move_parts(parts, source, target, top=2)
    for ours, theirs in zip(source.layers[1:], target.layers[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(target.layers[0].state_dict()["output.dense.weight"], below)
    assert torch.equal(target.word_embeddings.weight, words)


@pytest.mark.parametrize("what", ["adapter", "bitfit"])
def test_small_parts_are_put_onto_the_target(what: str) -> None:
    source, target, plain = build("bert"), build("bert", seed=1), build("bert", seed=1)
    parts = prepare([source], Training(what, ONE, 0), adapter_width=4)  # type: ignore[arg-type]
    move_parts(parts, source, target, top=0)
    batch = padded_batch(6)
    with torch.no_grad():
        assert torch.equal(target(*batch, states=()).last, plain(*batch, states=()).last)
        for parameter in parts.light:
            parameter.add_(0.1)
        assert not torch.equal(target(*batch, states=()).last, plain(*batch, states=()).last)


def test_students_of_different_shapes_are_refused() -> None:
    base = build("bert")
    wide = build("bert", intermediate_size=64)
    with pytest.raises(DataError, match="different shapes, as '"):
        add_difference(tuned=base, base=base, target=wide, source_tokens=TOKENS, target_tokens=TOKENS)
    parts = prepare([base], Training("freeze", ONE, 0, top=1), adapter_width=4)
    with pytest.raises(DataError, match="different shapes"):
        move_parts(parts, base, wide, top=1)
