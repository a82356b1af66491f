"""The encoder against transformers' own outputs, for every architecture, with padding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, ElectraConfig

from orchestrator.models.encoder import Encoder, freeze
from tests.models.tiny import ARCHITECTURES, SPECIAL, VOCAB_SIZE, build, padded_batch

BATCH = padded_batch(9, 4, 7)


@pytest.fixture(params=[*ARCHITECTURES, "electra with projection"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param in ARCHITECTURES:
        return build(request.param)
    config = ElectraConfig(
        vocab_size=VOCAB_SIZE, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, pad_token_id=SPECIAL.pad,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(AutoModelForMaskedLM.from_config(config)).eval()


@torch.no_grad()
def test_hidden_states_are_those_of_transformers(encoder: Encoder) -> None:
    ids, mask = BATCH
    expected = encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    output = encoder(ids, mask, layers=range(encoder.depth + 1))
    assert sorted(output.hidden) == [0, 1, 2, 3]
    assert len(expected) == 4
    for layer, states in output.hidden.items():
        torch.testing.assert_close(states, expected[layer], rtol=0, atol=0)
    assert output.last is output.hidden[3]


@torch.no_grad()
def test_only_what_is_asked_for_is_kept_and_no_hook_stays(encoder: Encoder) -> None:
    output = encoder(*BATCH, layers=(2,))
    assert list(output.hidden) == [2]
    assert encoder(*BATCH, layers=()).hidden == {}
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in encoder.layers)


@torch.no_grad()
def test_head_gives_the_logits_of_transformers(encoder: Encoder) -> None:
    ids, mask = BATCH
    expected = encoder.model(input_ids=ids, attention_mask=mask).logits
    states = encoder.head_states(encoder(ids, mask, layers=()).last)
    logits = F.linear(states, encoder.decoder_weight, encoder.decoder_bias)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert logits.std() > 0.01


@torch.no_grad()
def test_padding_changes_nothing(encoder: Encoder) -> None:
    ids, mask = BATCH
    alone = encoder(ids[1:2, :4], mask[1:2, :4], layers=()).last
    torch.testing.assert_close(encoder(ids, mask, layers=()).last[1:2, :4], alone, rtol=0, atol=2e-6)


@torch.no_grad()
def test_embeddings_can_take_the_place_of_ids(encoder: Encoder) -> None:
    ids, mask = BATCH
    from_ids = encoder(ids, mask, layers=(0,))
    from_embeddings = encoder(None, mask, layers=(0,), inputs_embeds=encoder.word_embeddings(ids))
    real = mask.bool()
    torch.testing.assert_close(from_embeddings.last[real], from_ids.last[real], rtol=0, atol=2e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_encoder_without_head(architecture: str) -> None:
    whole = build(architecture)
    bare = AutoModel.from_config(whole.model.config)
    bare.load_state_dict(whole.base.state_dict(), strict=False)
    encoder = Encoder(bare).eval()
    assert (encoder.has_head, whole.has_head) == (False, True)
    assert (encoder.depth, encoder.width, encoder.vocab_size) == (3, 32, VOCAB_SIZE)
    torch.testing.assert_close(encoder(*BATCH, layers=()).last, whole(*BATCH, layers=()).last, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_every_layer_through_hidden_states(architecture: str) -> None:
    encoder = build(architecture)
    output = encoder(*BATCH, layers=(1,))
    output.hidden[1].square().sum().backward()
    first, second = ([p.grad for p in encoder.layers[i].parameters()] for i in (0, 1))
    assert all(g is not None and g.abs().sum() > 0 for g in first[:1])
    assert all(g is None for g in second)


def test_freeze_leaves_nothing_to_train() -> None:
    frozen = freeze(copy.deepcopy(build("bert")).train())
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())
