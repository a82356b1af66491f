"""A masked-language-model encoder of any supported architecture, and what its forward pass exposes.

Shape legend: B rows, L tokens, D width, D' width of the decoder's input, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from orchestrator.models.architectures import ARCHITECTURES, Architecture


@dataclass(frozen=True)
class EncoderOutput:
    """Hidden states of the layers that were asked for, and of the last one."""

    hidden: dict[int, Tensor]  # layer -> [B, L, D]
    last: Tensor  # [B, L, D]


class Encoder(nn.Module):
    """A Hugging Face encoder, with or without its masked-language-model head, seen in one way.

    Layers are counted as in `output_hidden_states`: layer 0 is what enters the first layer (after the embedding
    LayerNorm, and after ELECTRA's projection), layer i is the output of layer i, and layer `depth` is `last`, which
    for ModernBERT includes the final norm.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """`model`: a `...ForMaskedLM`, or an encoder without head, of a type that `ARCHITECTURES` lists."""
        super().__init__()
        self.model = model
        self.model_type: str = model.config.model_type
        self.architecture: Architecture = ARCHITECTURES[self.model_type]
        self.has_head: bool = hasattr(model, self.architecture.base_path)
        self.depth: int = len(self.layers)
        self.width: int = model.config.hidden_size

    @property
    def base(self) -> nn.Module:
        """The encoder without head."""
        base = self.model.get_submodule(self.architecture.base_path) if self.has_head else self.model
        assert isinstance(base, nn.Module)
        return base

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer's layers; number i of the text is index i − 1."""
        layers = self.base.get_submodule(self.architecture.base.layers)
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The input embedding matrix [V, D], for ELECTRA [V, embedding size]."""
        embeddings = self.base.get_submodule(self.architecture.base.word_embeddings)
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix, padding rows of the checkpoint included."""
        return self.word_embeddings.num_embeddings

    @property
    def max_positions(self) -> int:
        """The longest row, in tokens, that the model can read."""
        config = self.model.config
        lost = config.pad_token_id + 1 if self.architecture.base.positions_follow_pad else 0
        return int(config.max_position_embeddings) - lost

    @property
    def decoder(self) -> nn.Linear:
        """The last linear map of the head; its weight is the embedding matrix where the two are tied."""
        assert self.has_head, "this encoder has no masked-language-model head"
        decoder = self.model.get_submodule(self.architecture.head.decoder)
        assert isinstance(decoder, nn.Linear)
        return decoder

    @property
    def decoder_weight(self) -> Tensor:
        """[V, D']."""
        return self.decoder.weight

    @property
    def decoder_bias(self) -> Tensor | None:
        """[V], or None."""
        return self.decoder.bias

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        *,
        layers: Collection[int],
        inputs_embeds: Tensor | None = None,
    ) -> EncoderOutput:
        """Run the encoder, keep only what is asked for.

        Args:
            input_ids: int [B, L], padded on the right, or None when `inputs_embeds` is given.
            attention_mask: [B, L], 1 or true at tokens, 0 or false at padding.
            layers: the layers to keep, 0 … depth.
            inputs_embeds: [B, L, width of the word embeddings], in place of `input_ids`.
        """
        assert all(0 <= layer <= self.depth for layer in layers), f"layers {layers} of an encoder of {self.depth}"
        hidden: dict[int, Tensor] = {}
        blocks = self.layers
        handles: list[RemovableHandle] = []
        for layer in layers:
            if layer == 0:
                handles.append(blocks[0].register_forward_pre_hook(_keep_input(hidden)))
            elif layer < self.depth:
                handles.append(blocks[layer - 1].register_forward_hook(_keep_output(hidden, layer)))
        try:
            output = self.base(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds)
        finally:
            for handle in handles:
                handle.remove()
        last: Tensor = output.last_hidden_state
        if self.depth in layers:
            hidden[self.depth] = last
        return EncoderOutput(hidden=hidden, last=last)

    def head_states(self, last: Tensor) -> Tensor:
        """The head's transform (dense, activation, LayerNorm): [..., D] -> [..., D'].

        `F.linear(head_states(last), decoder_weight, decoder_bias)` are the model's logits.
        """
        assert self.has_head, "this encoder has no masked-language-model head"
        head, part = self.architecture.head, self.model.get_submodule
        activate = nn.functional.gelu if head.activation is None else part(head.activation)
        states: Tensor = part(head.norm)(activate(part(head.dense)(last)))
        return states


def freeze(encoder: Encoder) -> Encoder:
    """The same encoder in evaluation mode, with no parameter that wants a gradient."""
    encoder.eval()
    encoder.requires_grad_(False)
    return encoder


def _keep_input(hidden: dict[int, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hidden[0] = inputs[0]

    return hook


def _keep_output(
    hidden: dict[int, Tensor], layer: int
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor | tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        # Some releases of transformers return a tuple from a layer.
        hidden[layer] = output if isinstance(output, torch.Tensor) else output[0]

    return hook
