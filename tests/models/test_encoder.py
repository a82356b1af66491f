"""The encoder against transformers' own outputs, for every architecture, with padding."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, ElectraConfig

from orchestrator.losses.attention import attention_pairs, attention_scores, join_heads, split_heads
from orchestrator.models.checkpoints import describe_checkpoint
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.records import StateKey, StateKind
from tests.models.tiny import ARCHITECTURES, SPECIAL, VOCAB_SIZE, build, padded_batch

BATCH = padded_batch(9, 4, 7)


LONG = padded_batch(31, 4, 17)


@pytest.fixture(params=[*ARCHITECTURES, "electra with projection", "modernbert with narrow windows"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "modernbert with narrow windows":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _local()
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
    output = encoder(ids, mask, states=[StateKey("hidden", layer) for layer in range(encoder.depth + 1)])
    assert sorted(output.states) == [("hidden", layer) for layer in range(4)]
    assert len(expected) == 4
    for key, states in output.states.items():
        torch.testing.assert_close(states, expected[key.layer], rtol=0, atol=0)
    assert output.last is output.states[StateKey("hidden", 3)]


@torch.no_grad()
def test_only_what_is_asked_for_is_kept_and_no_hook_stays(encoder: Encoder) -> None:
    wanted = {StateKey("hidden", 2), StateKey("key", 1), StateKey("value", 3)}
    assert encoder(*BATCH, states=wanted).states.keys() == wanted
    assert encoder(*BATCH, states=()).states == {}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.layers.modules())


@torch.no_grad()
def test_head_gives_the_logits_of_transformers(encoder: Encoder) -> None:
    ids, mask = BATCH
    expected = encoder.model(input_ids=ids, attention_mask=mask).logits
    states = encoder.head_states(encoder(ids, mask, states=()).last)
    logits = F.linear(states, encoder.decoder_weight, encoder.decoder_bias)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert logits.std() > 0.01


@torch.no_grad()
def test_padding_changes_nothing(encoder: Encoder) -> None:
    ids, mask = BATCH
    alone = encoder(ids[1:2, :4], mask[1:2, :4], states=()).last
    torch.testing.assert_close(encoder(ids, mask, states=()).last[1:2, :4], alone, rtol=0, atol=2e-6)


@torch.no_grad()
def test_embeddings_can_take_the_place_of_ids(encoder: Encoder) -> None:
    ids, mask = BATCH
    from_ids = encoder(ids, mask, states=(StateKey("hidden", 0),))
    from_embeddings = encoder(None, mask, states=(StateKey("hidden", 0),), inputs_embeds=encoder.word_embeddings(ids))
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
    torch.testing.assert_close(encoder(*BATCH, states=()).last, whole(*BATCH, states=()).last, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_every_layer_through_hidden_states(architecture: str) -> None:
    encoder = build(architecture)
    output = encoder(*BATCH, states=(StateKey("hidden", 1),))
    output.states[StateKey("hidden", 1)].square().sum().backward()
    first, second = ([p.grad for p in encoder.layers[i].parameters()] for i in (0, 1))
    assert all(g is not None and g.abs().sum() > 0 for g in first[:1])
    assert all(g is None for g in second)


def _probabilities(encoder: Encoder, ids: Tensor, mask: Tensor, *, layer: int) -> Tensor:
    """What the softmax of a layer's attention gives, from its queries and keys alone: [B, H, L, L]."""
    query, key = StateKey("query", layer), StateKey("key", layer)
    states = encoder(ids, mask, states=(query, key)).states
    scores = attention_scores(states[query], states[key], num_heads=encoder.num_heads)
    pairs = attention_pairs(mask.bool(), window=encoder.window(layer))
    return scores.masked_fill(~pairs[:, None], -torch.inf).softmax(-1)


@torch.no_grad()
def test_queries_and_keys_give_the_attention_probabilities_of_transformers(encoder: Encoder) -> None:
    ids, mask = LONG
    attended = copy.deepcopy(encoder)
    attended.model.set_attn_implementation("eager")
    expected = attended.model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    assert len(expected) == encoder.depth
    for layer in range(1, encoder.depth + 1):
        found = _probabilities(encoder, ids, mask, layer=layer)
        real = mask.bool()[:, None, :, None].expand_as(found)
        torch.testing.assert_close(found[real], expected[layer - 1][real], rtol=0, atol=1e-5)
        assert found[real].std() > 0.01


@torch.no_grad()
def test_values_are_what_the_attention_mixes(encoder: Encoder) -> None:
    """Probabilities times values are what the layer's output projection reads."""
    ids, mask = LONG
    mixed: list[Tensor] = []
    attention = {"modernbert": "attn.Wo", "distilbert": "attention.out_lin"}
    output = encoder.layers[1].get_submodule(attention.get(encoder.model_type, "attention.output.dense"))
    handle = output.register_forward_pre_hook(lambda _module, inputs: mixed.append(inputs[0]))
    key = StateKey("value", 2)
    value = encoder(ids, mask, states=(key,)).states[key]
    handle.remove()
    heads = _probabilities(encoder, ids, mask, layer=2).nan_to_num() @ split_heads(value, num_heads=encoder.num_heads)
    real = mask.bool()
    torch.testing.assert_close(join_heads(heads)[real], mixed[0][real], rtol=0, atol=1e-5)


def test_local_layers_look_no_further_than_their_window() -> None:
    assert [build("modernbert").window(layer) for layer in (1, 2, 3)] == [None, 64, 64]
    assert [_local().window(layer) for layer in (1, 2, 3)] == [None, 2, 2]
    assert [build("bert").window(layer) for layer in (1, 2, 3)] == [None] * 3


@torch.no_grad()
def test_checkpoints_are_described_with_the_same_windows(tmp_path: Path) -> None:
    for encoder in (_local(), build("modernbert"), build("distilbert")):
        encoder.model.save_pretrained(tmp_path / "model")
        info = describe_checkpoint(str(tmp_path / "model"))
        assert info.windows == tuple(encoder.window(layer) for layer in range(1, encoder.depth + 1))
        assert (info.heads, info.embedding_width) == (encoder.num_heads, encoder.decoder_weight.shape[1])


@pytest.mark.parametrize("kind", ["query", "key", "value"])
def test_gradients_reach_the_layers_below_through_the_projections(encoder: Encoder, kind: StateKind) -> None:
    key = StateKey(kind, 2)
    encoder.zero_grad()
    encoder(*BATCH, states=(key,)).states[key].square().sum().backward()
    first, second, third = (sum(_grad(p) for p in layer.parameters()) for layer in encoder.layers)
    assert first > 0
    assert second > 0
    assert third == 0


def _grad(parameter: torch.nn.Parameter) -> float:
    return 0.0 if parameter.grad is None else parameter.grad.abs().sum().item()


def _local() -> Encoder:
    """ModernBERT whose local layers see two tokens to either side."""
    encoder = build("modernbert")
    encoder.model.config.local_attention = 4
    return Encoder(AutoModelForMaskedLM.from_config(encoder.model.config)).eval()


def test_freeze_leaves_nothing_to_train() -> None:
    frozen = freeze(copy.deepcopy(build("bert")).train())
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())
