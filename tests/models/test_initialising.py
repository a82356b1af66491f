"""A student that copies every layer is its teacher; one that copies some has just those."""

from __future__ import annotations

import pytest
import torch
from transformers import ElectraConfig, ElectraForMaskedLM

from orchestrator.errors import ConfigError
from orchestrator.models.encoder import Encoder
from orchestrator.models.initialising import initialise_layers
from tests.models.tiny import ARCHITECTURES, SPECIAL, VOCAB_SIZE, build, padded_batch

BATCH = padded_batch(9, 4, 7)
ALL = {1: 1, 2: 2, 3: 3}
WITH_BERT_LAYERS = ("bert", "roberta", "distilbert", "electra")


def _copy_tokens(student: Encoder, teacher: Encoder) -> None:
    """What belongs to single tokens is not the business of `initialise_layers`."""
    with torch.no_grad():
        student.word_embeddings.weight.copy_(teacher.word_embeddings.weight)
        student.decoder.bias.copy_(teacher.decoder.bias)


@torch.no_grad()
def _logits(encoder: Encoder) -> torch.Tensor:
    states = encoder.head_states(encoder(*BATCH, states=()).last)
    return torch.nn.functional.linear(states, encoder.decoder_weight, encoder.decoder_bias)[BATCH[1].bool()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_whole_copy_gives_the_outputs_of_its_teacher(architecture: str) -> None:
    teacher, student = build(architecture, seed=0), build(architecture, seed=1)
    initialise_layers(student, teacher, ALL)
    _copy_tokens(student, teacher)
    torch.testing.assert_close(_logits(student), _logits(teacher), rtol=0, atol=0)


@pytest.mark.parametrize("theirs", WITH_BERT_LAYERS)
@pytest.mark.parametrize("mine", WITH_BERT_LAYERS)
def test_layers_go_from_one_architecture_to_another(mine: str, theirs: str) -> None:
    teacher, student = build(theirs, seed=0), build(mine, seed=1)
    initialise_layers(student, teacher, ALL)
    _copy_tokens(student, teacher)
    torch.testing.assert_close(_logits(student), _logits(teacher), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_mapped_layers_change(architecture: str) -> None:
    teacher, student, before = build(architecture, layers=4), build(architecture, seed=1), build(architecture, seed=1)
    initialise_layers(student, teacher, {1: 3, 3: 4})
    for index, source in ((0, teacher.layers[2]), (1, before.layers[1]), (2, teacher.layers[3])):
        expected = source.state_dict()
        for name, weight in student.layers[index].state_dict().items():
            assert torch.equal(weight, expected[name]), name
    assert torch.equal(student.word_embeddings.weight, before.word_embeddings.weight)
    assert student.decoder.bias is not None
    assert before.decoder.bias is not None
    assert torch.equal(student.decoder.bias, before.decoder.bias)


def test_the_copy_is_float32_and_does_not_share_memory() -> None:
    teacher, student = build("bert").to(torch.bfloat16), build("bert", seed=1)
    initialise_layers(student, teacher, ALL)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    weight, source = (e.layers[0].state_dict()["output.dense.weight"] for e in (student, teacher))
    assert torch.equal(weight, source.float())
    source.zero_()
    assert weight.abs().sum() > 0


def test_positions_are_copied_as_far_as_both_reach() -> None:
    teacher, student = build("roberta", max_positions=30), build("bert", seed=1, max_positions=20)
    initialise_layers(student, teacher, ALL)
    theirs = teacher.base.get_submodule("embeddings.position_embeddings").weight[SPECIAL.pad + 1 :]
    mine = student.base.get_submodule("embeddings.position_embeddings").weight
    assert torch.equal(mine, theirs[:20])


def test_embeddings_of_another_width_are_left_alone() -> None:
    config = ElectraConfig(
        vocab_size=VOCAB_SIZE, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, pad_token_id=SPECIAL.pad,
    )  # fmt: skip
    teacher, student = Encoder(ElectraForMaskedLM(config)), build("electra", seed=1)
    before = student.base.get_submodule("embeddings").state_dict()
    before = {name: weight.clone() for name, weight in before.items()}
    initialise_layers(student, teacher, ALL)
    for name, weight in student.base.get_submodule("embeddings").state_dict().items():
        assert torch.equal(weight, before[name])
    assert torch.equal(student.layers[0].output.dense.weight, teacher.layers[0].output.dense.weight)


def test_other_sizes_are_named() -> None:
    student = build("distilbert", hidden_size=16, heads=2)
    with pytest.raises(ConfigError, match="hidden_size 16 against 32, heads 2 against 4; give the student"):
        initialise_layers(student, build("bert"), ALL)
    with pytest.raises(ConfigError, match="differs from its teacher in intermediate_size 60 against 48"):
        initialise_layers(build("bert", intermediate_size=60), build("bert"), ALL)


def test_other_kinds_of_layer_are_named() -> None:
    with pytest.raises(ConfigError, match="a modernbert student cannot start from the layers of a bert teacher"):
        initialise_layers(build("modernbert"), build("bert"), ALL)


def test_modernbert_layers_move_to_and_from_the_first_place() -> None:
    """The first layer alone has no norm before its attention."""
    teacher, student = build("modernbert"), build("modernbert", seed=1)
    initialise_layers(student, teacher, {1: 2, 2: 1})
    for mine, theirs in ((0, 1), (1, 0)):
        assert torch.equal(student.layers[mine].mlp.Wi.weight, teacher.layers[theirs].mlp.Wi.weight)
