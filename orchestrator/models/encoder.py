"""A masked-language-model encoder of any supported architecture, and what its forward pass exposes.

Shape legend: B rows, L tokens, D width, D' width of the decoder's input, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from orchestrator.models.architectures import ARCHITECTURES, Architecture
from orchestrator.models.hooks import keep_states
from orchestrator.records import StateKey


@dataclass(frozen=True)
class EncoderOutput:
    """The states that were asked for, and the hidden states of the last layer."""

    states: dict[StateKey, Tensor]  # [B, L, D]; of queries, keys and values the heads lie side by side
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
    def num_heads(self) -> int:
        """Attention heads of every layer."""
        return int(getattr(self.model.config, self.architecture.config.heads))

    def window(self, layer: int) -> int | None:
        """How many positions apart tokens may be that look at each other in `layer` (1 … depth); None: any number."""
        types = getattr(self.model.config, "layer_types", None)
        if types is None or types[layer - 1] != "sliding_attention":
            return None
        return int(self.model.config.sliding_window)

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
        states: Collection[StateKey],
        inputs_embeds: Tensor | None = None,
    ) -> EncoderOutput:
        """Run the encoder, keep only what is asked for.

        Args:
            input_ids: int [B, L], padded on the right, or None when `inputs_embeds` is given.
            attention_mask: [B, L], 1 or true at tokens, 0 or false at padding.
            states: what to keep: hidden states of layers 0 … depth; queries, keys and values of layers 1 … depth.
            inputs_embeds: [B, L, width of the word embeddings], in place of `input_ids`.
        """
        assert all((key.kind != "hidden") <= key.layer <= self.depth for key in states), f"{states} of {self.depth}"
        top = StateKey("hidden", self.depth)
        with keep_states(self.layers, self.architecture.base.projections, {*states} - {top}) as kept:
            output = self.base(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds)
        last: Tensor = output.last_hidden_state
        return EncoderOutput(states=kept | ({top: last} if top in states else {}), last=last)

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
