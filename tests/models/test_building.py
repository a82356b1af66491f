"""Students are built as their template says, from their seed alone."""

from __future__ import annotations

import pytest
import torch

from orchestrator.models.building import build_encoder
from tests.models.tiny import ARCHITECTURES, SPECIAL, VOCAB_SIZE, build, padded_batch, template


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_and_special_ids_are_those_of_the_template(architecture: str) -> None:
    encoder = build_encoder(template(architecture, dropout=0.25), vocab_size=VOCAB_SIZE, special=SPECIAL, seed=0)
    config = encoder.model.config
    assert (encoder.depth, encoder.width, encoder.vocab_size) == (3, 32, VOCAB_SIZE)
    assert getattr(config, encoder.architecture.config.intermediate) == 48
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (SPECIAL.pad, SPECIAL.cls, SPECIAL.sep)
    assert encoder.training
    assert encoder.has_head
    assert any(isinstance(m, torch.nn.Dropout) and m.p == 0.25 for m in encoder.modules())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tie_head", [True, False])
def test_head_is_tied_when_asked(architecture: str, tie_head: bool) -> None:
    encoder = build(architecture, tie_head=tie_head)
    assert (encoder.decoder_weight is encoder.word_embeddings.weight) is tie_head
    assert encoder.decoder_weight.shape == (VOCAB_SIZE, 32)


@pytest.mark.parametrize(("architecture", "width"), [("bert", 128), ("distilbert", 128), ("modernbert", 48)])
def test_default_width_of_the_feed_forward_layer(architecture: str, width: int) -> None:
    encoder = build(architecture, intermediate_size=None)
    assert getattr(encoder.model.config, encoder.architecture.config.intermediate) == width


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_may_be_as_long_as_max_positions(architecture: str) -> None:
    with torch.no_grad():
        assert build(architecture)(*padded_batch(40, 12), states=()).last.shape == (2, 40, 32)


def test_weights_depend_on_the_seed_alone_and_leave_the_global_state() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, same, other = (build_encoder(template("bert"), vocab_size=9, special=SPECIAL, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [e.layers[0].state_dict()["attention.self.query.weight"] for e in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
