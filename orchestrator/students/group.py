"""A group of students in one module: their encoders, the parts they share, and the distiller's projections.

Shape legend: B rows, L tokens, N tokens without padding, M masked positions, V vocabulary of a student, G of the group,
D width (T teacher's, S student's).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.config.models import ShareSection
from orchestrator.config.objectives import Positions
from orchestrator.models.encoder import Encoder
from orchestrator.records import StateKey
from orchestrator.students.batch import Batch

#: Students -> the parameters that they, and no others, train; under the parameters' names.
Parts: TypeAlias = Mapping[tuple[str, ...], Mapping[str, nn.Parameter]]


@dataclass(frozen=True)
class StudentOutput:
    """What the objectives see of one student's forward pass."""

    states: Mapping[StateKey, Tensor]  # [B, L, D_S]
    last: Tensor  # [B, L, D_S]
    head_at: Positions | None
    head_states: Tensor | None  # [M, D'] at masked positions or [N, D'] at all tokens; None when no objective reads it
    embedding_weight: Tensor  # [V, D_S]
    decoder_weight: Tensor  # [V, D']
    decoder_bias: Tensor | None  # [V]

    def head_states_at(self, positions: Positions, batch: Batch) -> Tensor:
        """What the decoder reads at masked positions, or at all tokens if the head ran there."""
        assert self.head_states is not None
        return self.head_states if positions == self.head_at else self.head_states[batch.masked_tokens]


class StudentGroup(nn.Module):
    """Students that are stepped together. A part that is shared exists once, and gets the gradients of all.

    The shared embedding is one matrix [G, D] over the tokens of the whole group; each student reads and is exported
    with its own slice. Projections belong to the group and are never exported.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        share: ShareSection,
        tokens: Mapping[str, Sequence[str]],
        projections: Mapping[str, Mapping[str, nn.Module]],
    ) -> None:
        """`tokens`: student -> its vocabulary in the order of its ids; `projections`: student -> key -> module."""
        super().__init__()
        self.names = tuple(encoders)
        self.encoders = nn.ModuleList(encoders.values())
        self.projections = nn.ModuleDict({key: module for own in projections.values() for key, module in own.items()})
        self._projection_keys = {name: tuple(projections[name]) for name in encoders}
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
        rows = getattr(self, f"slice_{self.names.index(name)}")
        return self.embedding if rows is None else F.embedding(rows, self.embedding)

    def run(self, name: str, batch: Batch, *, states: Collection[StateKey], head_at: Positions | None) -> StudentOutput:
        """One forward pass of one student; the head runs where it is wanted, and nowhere else."""
        encoder = self.encoder(name)
        weight = self.embedding_weight(name)
        output = encoder(None, batch.attention_mask, states=states, inputs_embeds=F.embedding(batch.input_ids, weight))
        read = None if head_at is None else output.last.flatten(0, 1)[batch.positions_at(head_at)]
        tied = encoder.decoder_weight is encoder.word_embeddings.weight
        return StudentOutput(
            states=output.states,
            last=output.last,
            head_at=head_at,
            head_states=None if read is None else encoder.head_states(read),
            embedding_weight=weight,
            decoder_weight=weight if tied else encoder.decoder_weight,
            decoder_bias=encoder.decoder_bias,
        )

    def attend_eagerly(self) -> None:
        """Attention as two plain products and a softmax, in place of torch's fused kernel."""
        for name in self.names:
            self.encoder(name).model.set_attn_implementation("eager")

    def trained(self) -> dict[str, nn.Parameter]:
        """Every parameter that the optimiser steps, once, under one stable name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def parts(self) -> Parts:
        """The trained parameters by the students that use them: one student's own, and those that several share."""
        used = {name: {id(parameter) for parameter in self._used_by(name)} for name in self.names}
        found: dict[tuple[str, ...], dict[str, nn.Parameter]] = defaultdict(dict)
        for name, parameter in self.trained().items():
            found[tuple(student for student in self.names if id(parameter) in used[student])][name] = parameter
        return dict(found)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the slices of a shared embedding into the encoders, for export."""
        if self.embedding is not None:
            for name in self.names:
                self.encoder(name).word_embeddings.weight.copy_(self.embedding_weight(name))

    def _used_by(self, name: str) -> list[nn.Parameter]:
        modules = [self.encoder(name), *(self.projections[key] for key in self._projection_keys[name])]
        shared = [] if self.embedding is None else [self.embedding]
        return shared + [parameter for module in modules for parameter in module.parameters()]

    def _share_modules(self, share: ShareSection) -> None:
        first = self.encoder(self.names[0])
        for name in self.names[1:]:
            encoder = self.encoder(name)
            for part in share.parts:
                if part == "head":
                    for path in (encoder.architecture.head.dense, encoder.architecture.head.norm):
                        encoder.model.set_submodule(path, first.model.get_submodule(path))
                elif part.startswith("layer-"):
                    index = int(part.removeprefix("layer-")) - 1
                    encoder.layers[index] = first.layers[index]

    def _share_embedding(self, tokens: Mapping[str, Sequence[str]]) -> None:
        """One row per token of the group; a token that several students have starts as the first of them has it.

        The slice of a student is None when it is the whole matrix, of which no copy is then made.
        """
        rows: dict[str, int] = {}
        values: list[Tensor] = []
        for name in self.names:
            matrix = self.encoder(name).word_embeddings.weight.requires_grad_(False)
            new = [number for number, token in enumerate(tokens[name]) if token not in rows]
            values.append(matrix[new])
            for number in new:
                rows[tokens[name][number]] = len(rows)
        self.embedding = nn.Parameter(torch.cat(values))
        for index, name in enumerate(self.names):
            places = torch.tensor([rows[token] for token in tokens[name]])
            is_whole = torch.equal(places, torch.arange(len(rows)))
            self.register_buffer(f"slice_{index}", None if is_whole else places, persistent=False)
