"""What is trained starts as no change, is all that wants a gradient, and may be shared by two students."""

from __future__ import annotations

import pytest
import torch

from orchestrator.errors import DataError
from orchestrator.models.encoder import Encoder
from orchestrator.transfer.job import Student, Training
from orchestrator.transfer.parts import Adapters, attach, base_weights, prepare
from tests.models.tiny import ARCHITECTURES, build, padded_batch

ONE = (Student("one", "one"),)
WITH_BIASES = [name for name in ARCHITECTURES if name != "modernbert"]


def states(encoder: Encoder) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(*padded_batch(7, 4), states=()).last


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_start_as_identity_and_then_matter(architecture: str) -> None:
    encoder = build(architecture)
    before = states(encoder)
    parts = prepare([encoder], Training("adapter", ONE, 0), adapter_width=4)
    assert torch.equal(states(encoder), before)
    assert parts.adapters is not None
    assert parts.num_parameters == encoder.depth * (2 * 4 * encoder.width + 4 + encoder.width)
    torch.nn.init.ones_(parts.adapters.up[0].bias)  # type: ignore[arg-type]
    assert not torch.equal(states(encoder), before)
    assert not any(weight.requires_grad for weight in encoder.parameters())


@pytest.mark.parametrize("architecture", WITH_BIASES)
def test_offsets_start_as_identity_and_are_added(architecture: str) -> None:
    encoder, moved = build(architecture), build(architecture)
    before = states(encoder)
    parts = prepare([encoder], Training("bitfit", ONE, 0), adapter_width=4)
    assert torch.equal(states(encoder), before)
    assert all(name.endswith("bias") for name in parts.offsets)
    biases = {name: weight for name, weight in base_weights(moved).items() if name.endswith("bias")}
    assert parts.offsets.keys() == biases.keys()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, offset in parts.offsets.items():
            offset.normal_(generator=generator)
            biases[name].add_(offset)
    torch.testing.assert_close(states(encoder), states(moved))
    assert not any(weight.requires_grad for name, weight in base_weights(encoder).items() if "offset" not in name)


def test_the_whole_encoder_and_its_top() -> None:
    encoder = build("bert")
    parts = prepare([encoder], Training("full", ONE, 0), adapter_width=4)
    assert parts.weights.keys() == dict(encoder.base.named_parameters()).keys()
    assert all(weight.requires_grad for weight in encoder.base.parameters())
    encoder = build("bert")
    parts = prepare([encoder], Training("freeze", ONE, 0, top=2), adapter_width=4)
    assert {name.split(".")[2] for name in parts.weights} == {"1", "2"}
    wanting = {name for name, weight in encoder.base.named_parameters() if weight.requires_grad}
    assert wanting == parts.weights.keys()
    bare = prepare([build("bert")], Training("freeze", ONE, 0, top=0), adapter_width=4)
    assert bare.num_parameters == 0


def test_two_students_share_what_is_trained() -> None:
    first, second = build("bert"), build("bert", seed=1)
    for what in ("adapter", "bitfit"):
        parts = prepare([first, second], Training(what, ONE, 0), adapter_width=4)  # type: ignore[arg-type]
        loss = sum(encoder(*padded_batch(5), states=()).last.square().sum() for encoder in (first, second))
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        alone = build("bert")
        own = prepare([alone], Training(what, ONE, 0), adapter_width=4)  # type: ignore[arg-type]
        alone(*padded_batch(5), states=()).last.square().sum().backward()
        shared = [p.grad for p in parts.light if p.grad is not None]
        single = [p.grad for p in own.light if p.grad is not None]
        assert shared
        assert not torch.allclose(shared[-1], single[-1])  # the other student has a say
        first, second = build("bert"), build("bert", seed=1)


def test_what_does_not_fit() -> None:
    adapters = Adapters(2, 32, 4, seed=0)
    with pytest.raises(DataError, match="Adapters of 2 layers of width 32 do not fit a student of 3 layers"):
        adapters.attach(build("bert"))
    with pytest.raises(DataError, match="the model has 3 layers"):
        prepare([build("bert")], Training("freeze", ONE, 0, top=4), adapter_width=4)
    parts = prepare([build("bert")], Training("bitfit", ONE, 0), adapter_width=4)
    with pytest.raises(DataError, match="differ in name or size; use the mode bitfit-trg"):
        attach(build("roberta", layers=2), parts)
    bare = build("modernbert")
    for module in bare.modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
    with pytest.raises(DataError, match="without biases"):
        prepare([bare], Training("bitfit", ONE, 0), adapter_width=4)
