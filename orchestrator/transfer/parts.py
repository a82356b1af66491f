"""The parts of an encoder that a fine-tuning trains: all, the top layers, adapters, or offsets of the biases.

Shape legend: B sentences, L tokens, D width, W width of an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from orchestrator.errors import DataError
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.transfer.job import Training

LayerOutput: TypeAlias = Tensor | tuple[Tensor, ...]
Hook: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...], LayerOutput], LayerOutput]


@dataclass(frozen=True)
class Parts:
    """What is trained besides the head: an encoder's own weights by name, adapters, or offsets of biases by name."""

    weights: Mapping[str, nn.Parameter] = field(default_factory=dict)
    adapters: Adapters | None = None
    offsets: Mapping[str, nn.Parameter] = field(default_factory=dict)

    @property
    def light(self) -> list[nn.Parameter]:
        """Those that are new, and start at no change."""
        return [*self.offsets.values(), *(self.adapters.parameters() if self.adapters is not None else ())]

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in [*self.weights.values(), *self.light])


def prepare(encoders: Sequence[Encoder], training: Training, *, adapter_width: int) -> Parts:
    """Make trainable, in one encoder or in several that share it, what `training` trains; freeze the rest.

    Raises:
        DataError: the encoders are too different to share it, or have no such part.
    """
    for encoder in encoders:
        freeze(encoder)
    first = encoders[0]
    match training.what:
        case "full":
            parts = Parts(weights=base_weights(first))
        case "freeze":
            parts = Parts(weights=top_weights(first, training.top))
        case "adapter":
            adapters = Adapters(first.depth, first.width, adapter_width, seed=training.seed)
            parts = Parts(adapters=adapters.to(first.word_embeddings.weight.device))
        case "bitfit":
            parts = Parts(offsets={name: nn.Parameter(torch.zeros_like(bias)) for name, bias in _biases(first)})
    for encoder in encoders:
        attach(encoder, parts)
    for weight in parts.weights.values():
        weight.requires_grad_(True)
    return parts


def attach(encoder: Encoder, parts: Parts) -> None:
    """Let adapters and offsets, where `parts` has some, take part in the encoder's forward pass."""
    if parts.adapters is not None:
        parts.adapters.attach(encoder)
    if parts.offsets:
        _attach_offsets(encoder, parts.offsets)


def base_weights(encoder: Encoder) -> dict[str, nn.Parameter]:
    """All weights of the encoder without its masked-language-model head, by their names in it."""
    return dict(encoder.base.named_parameters())


def top_weights(encoder: Encoder, count: int) -> dict[str, nn.Parameter]:
    """Those of the `count` layers next to the head."""
    if count > encoder.depth:
        raise DataError(f"Mode freeze+{count}: the model has {encoder.depth} layers; name as many at most.")
    top = {id(weight) for layer in list(encoder.layers)[encoder.depth - count :] for weight in layer.parameters()}
    return {name: weight for name, weight in base_weights(encoder).items() if id(weight) in top}


class Adapters(nn.Module):
    """A bottleneck after each layer, h + up(gelu(down(h))) (Houlsby et al. 2019; one per layer, Pfeiffer et al. 2021).

    `up` starts at zero, so that an encoder with new adapters is the encoder without.
    """

    def __init__(self, depth: int, width: int, bottleneck: int, *, seed: int) -> None:
        """D = `width`, W = `bottleneck`; the weights are a function of the sizes and the seed."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.width = width
        self.down = nn.ModuleList(_linear(width, bottleneck) for _ in range(depth))
        self.up = nn.ModuleList(_linear(bottleneck, width) for _ in range(depth))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            for down in self.down:
                assert isinstance(down, nn.Linear)
                down.weight.normal_(0.0, 0.02, generator=generator)

    def attach(self, encoder: Encoder) -> None:
        """Change what each layer of `encoder` gives to the next; several encoders may have the same adapters."""
        if (encoder.depth, encoder.width) != (len(self.down), self.width):
            raise DataError(
                f"Adapters of {len(self.down)} layers of width {self.width} do not fit a student of {encoder.depth} "
                f"layers of width {encoder.width}; use the mode adapter-trg."
            )
        for layer, down, up in zip(encoder.layers, self.down, self.up, strict=True):
            layer.register_forward_hook(_after(down, up))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Without values, so that no random number is drawn for them."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")


def _after(down: nn.Module, up: nn.Module) -> Hook:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: LayerOutput) -> LayerOutput:
        # Some releases of transformers return a tuple from a layer.
        hidden = output if isinstance(output, Tensor) else output[0]
        changed: Tensor = hidden + up(nn.functional.gelu(down(hidden)))
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return hook


class _Offset(nn.Module):
    def __init__(self, offset: nn.Parameter) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.offset


def _biases(encoder: Encoder) -> Iterator[tuple[str, nn.Parameter]]:
    """Every bias of the encoder (BitFit, Ben Zaken et al. 2022)."""
    found = [(name, weight) for name, weight in base_weights(encoder).items() if name.rpartition(".")[2] == "bias"]
    if not found:
        raise DataError(
            f"Modes bitfit: a model of type {encoder.model_type} without biases has none to train; use adapters."
        )
    yield from found


def _attach_offsets(encoder: Encoder, offsets: Mapping[str, nn.Parameter]) -> None:
    shapes = {name: bias.shape for name, bias in _biases(encoder)}
    if shapes != {name: offset.shape for name, offset in offsets.items()}:
        raise DataError("The biases of source and target student differ in name or size; use the mode bitfit-trg.")
    for name, offset in offsets.items():
        module = encoder.base.get_submodule(name.rpartition(".")[0])
        parametrize.register_parametrization(module, "bias", _Offset(offset))
