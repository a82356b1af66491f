"""One micro-batch: what a student reads, and what its teacher said about it.

Shape legend: B rows, L tokens of the longest row, N tokens without padding, M masked positions, P positions of which
the teacher's distribution is known (the masked ones, or all tokens), K kept ids, V vocabulary of the teacher, D its
width, D' width of what its decoder reads. Flat positions index the [B·L] tokens of the padded batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.config.objectives import Positions
from orchestrator.records import StateKey


@dataclass(frozen=True)
class TeacherTargets:
    """What the teacher said at P positions; ids are the student's, -1 where it has none. K is 0 for what nobody asked.

    Probabilities are at temperature 1, over the teacher's full vocabulary.
    """

    topk_ids: Tensor  # int64 [P, K], most probable first
    topk_logprobs: Tensor  # float32 [P, K]
    drawn_ids: Tensor  # int64 [P, K], distinct
    drawn_counts: Tensor  # int64 [P, K], how often each was drawn; 0 where there is none
    head_states: Tensor  # float32 [P, D'], what the decoder reads
    log_partition: Mapping[float, Tensor]  # temperature T -> float32 [P], log Σ exp(z / T) of the logits z

    def known_top_k(self, k: int) -> Tensor:
        """Positions of which the student has any of the `k` most probable ids: bool [P]."""
        return (self.topk_ids[:, :k] >= 0).any(-1)

    def known_draws(self) -> Tensor:
        """Positions of which the student has any drawn id: bool [P]."""
        return ((self.drawn_ids >= 0) & (self.drawn_counts > 0)).any(-1)

    def each(self, change: Callable[[Tensor], Tensor]) -> TeacherTargets:
        """The same with every tensor changed alike."""
        return TeacherTargets(
            topk_ids=change(self.topk_ids),
            topk_logprobs=change(self.topk_logprobs),
            drawn_ids=change(self.drawn_ids),
            drawn_counts=change(self.drawn_counts),
            head_states=change(self.head_states),
            log_partition={temperature: change(values) for temperature, values in self.log_partition.items()},
        )


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one language: masked rows, or sentences to be compared as a whole."""

    language: str
    input_ids: Tensor  # int64 [B, L], student ids, padded on the right
    attention_mask: Tensor  # int64 [B, L]
    token_positions: Tensor  # int64 [N] flat positions of the tokens that are no padding
    first_tokens: Tensor  # int64 [B] of the N tokens, the first of each row
    masked_positions: Tensor  # int64 [M] flat positions
    masked_tokens: Tensor  # int64 [M] of the N tokens, those that are masked
    labels: Tensor  # int64 [M], -1 where the student's vocabulary lacks the token
    teacher_ids: Tensor  # int64 [N] in the teacher's vocabulary
    known_ids: Tensor  # int64 [N] in the student's, -1 where it has none
    at_all_tokens: bool  # whether `targets` are of all tokens
    targets: TeacherTargets
    states: Mapping[StateKey, Tensor]  # float32 [N, D]
    vectors: Tensor | None = None  # float32 [B, D] of whole sentences
    text: str = ""  # the parallel text that these are sentences of

    @property
    def key(self) -> str:
        """What it is for: the language of masked rows, or the parallel text of sentences."""
        return self.text or self.language

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return len(self.token_positions)

    def positions_at(self, positions: Positions) -> Tensor:
        """Flat positions: the masked ones int64 [M], or those of all tokens [N]."""
        return self.masked_positions if positions == "masked" else self.token_positions

    def labels_at(self, positions: Positions) -> Tensor:
        """The true tokens: int64 [M], or [N] with -1 at tokens that are not masked."""
        if positions == "masked":
            return self.labels
        return torch.full_like(self.token_positions, -1).index_copy_(0, self.masked_tokens, self.labels)

    def targets_at(self, positions: Positions) -> TeacherTargets:
        """What the teacher said at masked positions, or at all tokens when that is known."""
        assert self.at_all_tokens or positions == "masked"
        if self.at_all_tokens and positions == "masked":
            return self.targets.each(lambda values: values[self.masked_tokens])
        return self.targets

    def padded(self, key: StateKey) -> Tensor:
        """The teacher's states with zeros at padding: float32 [B, L, D]."""
        states = self.states[key]
        flat = states.new_zeros(self.input_ids.numel(), states.shape[-1]).index_copy_(0, self.token_positions, states)
        return flat.view(*self.input_ids.shape, -1)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        if device.type == "cpu":
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            language=self.language,
            input_ids=move(self.input_ids),
            attention_mask=move(self.attention_mask),
            token_positions=move(self.token_positions),
            first_tokens=move(self.first_tokens),
            masked_positions=move(self.masked_positions),
            masked_tokens=move(self.masked_tokens),
            labels=move(self.labels),
            teacher_ids=move(self.teacher_ids),
            known_ids=move(self.known_ids),
            at_all_tokens=self.at_all_tokens,
            targets=self.targets.each(move),
            states={key: move(values) for key, values in self.states.items()},
            vectors=None if self.vectors is None else move(self.vectors),
            text=self.text,
        )
