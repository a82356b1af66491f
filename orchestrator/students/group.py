"""A group of students in one module: their encoders, the parts they share, and the distiller's projections.

Shape legend: B rows, L tokens, N tokens without padding, M masked positions, V vocabulary of a student, G of the group,
D width (T teacher's, S student's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.config.models import ShareSection
from orchestrator.models.encoder import Encoder
from orchestrator.students.batches import Batch


@dataclass(frozen=True)
class StudentOutput:
    """What the objectives see of one student's forward pass."""

    hidden: dict[int, Tensor]  # student layer -> [N, D_S]
    head_states: Tensor | None  # [M, D'], None when no objective reads the output layer
    decoder_weight: Tensor  # [V, D']
    decoder_bias: Tensor | None  # [V]


class StudentGroup(nn.Module):
    """Students that are stepped together. A part that is shared exists once, and gets the gradients of all.

    The shared embedding is one matrix [G, D] over the tokens of the whole group; each student reads and is exported with
    its own slice. Projections belong to the group and are never exported.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        share: ShareSection,
        tokens: Mapping[str, Sequence[str]],
        projections: Mapping[str, nn.Module],
    ) -> None:
        """`tokens`: student -> its vocabulary in the order of its ids; `projections`: key -> module."""
        super().__init__()
        self.names = tuple(encoders)
        self.encoders = nn.ModuleList(encoders.values())
        self.projections = nn.ModuleDict(projections)
        self._share_modules(share)
        self.embedding: nn.Parameter | None = None
        if "embedding" in share.parts:
            self._share_embedding(tokens)

    def encoder(self, name: str) -> Encoder:
        """The encoder of one student."""
        encoder = self.encoders[self.names.index(name)]
        assert isinstance(encoder, Encoder)
        return encoder

    def embedding_weight(self, name: str) -> Tensor:
        """The word embeddings of one student [V, D]: its own matrix, or its slice of the shared one."""
        if self.embedding is None:
            return self.encoder(name).word_embeddings.weight
        return self.embedding[self.get_buffer(f"slice_{self.names.index(name)}")]

    def run(self, name: str, batch: Batch, *, layers: Sequence[int], needs_head: bool) -> StudentOutput:
        """One forward pass of one student; the head runs at the masked positions only."""
        encoder = self.encoder(name)
        weight = self.embedding_weight(name)
        output = encoder(None, batch.attention_mask, layers=layers, inputs_embeds=F.embedding(batch.input_ids, weight))
        hidden = {layer: states.flatten(0, 1)[batch.token_positions] for layer, states in output.hidden.items()}
        tied = encoder.decoder_weight is encoder.word_embeddings.weight
        return StudentOutput(
            hidden=hidden,
            head_states=encoder.head_states(output.last.flatten(0, 1)[batch.masked_positions]) if needs_head else None,
            decoder_weight=weight if tied else encoder.decoder_weight,
            decoder_bias=encoder.decoder_bias,
        )

    def trained(self) -> dict[str, nn.Parameter]:
        """Every parameter that the optimiser steps, once, under one stable name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def owner(self, parameter: str) -> str:
        """The student whose checkpoint holds a parameter: the first that uses it; group-wide parts lie with the first."""
        head, _, rest = parameter.partition(".")
        return self.names[int(rest.partition(".")[0])] if head == "encoders" else self.names[0]

    @torch.no_grad()
    def settle(self) -> None:
        """Write the slices of a shared embedding into the encoders, for export."""
        if self.embedding is not None:
            for name in self.names:
                self.encoder(name).word_embeddings.weight.copy_(self.embedding_weight(name))

    def _share_modules(self, share: ShareSection) -> None:
        first = self.encoder(self.names[0])
        for name in self.names[1:]:
            encoder = self.encoder(name)
            for part in share.parts:
                if part == "head":
                    for step in encoder.architecture.head_transform:
                        if not step.endswith("()"):
                            encoder.model.set_submodule(step, first.model.get_submodule(step))
                elif part.startswith("layer-"):
                    index = int(part.removeprefix("layer-")) - 1
                    encoder.layers[index] = first.layers[index]

    def _share_embedding(self, tokens: Mapping[str, Sequence[str]]) -> None:
        rows: dict[str, int] = {}
        values: list[Tensor] = []
        for index, name in enumerate(self.names):
            matrix = self.encoder(name).word_embeddings.weight
            matrix.requires_grad_(False)
            places = []
            for number, token in enumerate(tokens[name]):
                if token not in rows:
                    rows[token] = len(rows)
                    values.append(matrix[number].detach())
                places.append(rows[token])
            self.register_buffer(f"slice_{index}", torch.tensor(places), persistent=False)
        self.embedding = nn.Parameter(torch.stack(values).clone())
