"""What objectives read of a teacher beside its signals: its decoder, its head's transform, its word embeddings.

Shape legend: V vocabulary of the teacher, D width of its states, D' of what its decoder reads, E of its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.models import TeacherSection
from orchestrator.config.objectives import (
    EmbeddingsObjective,
    LogitMatchingObjective,
    Objective,
    SoftmaxRegressionObjective,
    SoftTargetsObjective,
)
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.models.loading import load_encoder
from orchestrator.records import Int64

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FrozenTeacher:
    """Parameters of a teacher that want no gradient and are nobody's to train, on the students' device."""

    encoder: Encoder

    @property
    def decoder_weight(self) -> Tensor:
        """[V, D']."""
        return self.encoder.decoder_weight

    @property
    def decoder_bias(self) -> Tensor | None:
        """[V], or None."""
        return self.encoder.decoder_bias

    @property
    def word_embeddings(self) -> Tensor:
        """[V, E]."""
        return self.encoder.word_embeddings.weight

    def transform(self, states: Tensor) -> Tensor:
        """What the head does before its decoder: [..., D] -> [..., D']; a gradient passes through to `states`."""
        return self.encoder.head_states(states)


@dataclass(frozen=True)
class KnownTeacher:
    """A frozen teacher as one student sees it: with the way from its ids to the student's."""

    teacher: FrozenTeacher
    student_ids: Tensor | None  # int64 [V], -1 where the student has no such token; None: the very same vocabulary
    columns: tuple[Tensor, Tensor] | None  # (student ids, teacher ids) of the tokens both have; None: all, in order

    @classmethod
    def make(cls, teacher: FrozenTeacher, table: Int64, *, student_size: int, device: torch.device) -> KnownTeacher:
        """`table`: int64 teacher id -> student id, -1 where none; it may end before the teacher's rows do."""
        size = teacher.encoder.vocab_size
        if len(table) == size == student_size and np.array_equal(table, np.arange(size)):
            return cls(teacher, None, None)
        whole = np.full(size, -1, np.int64)
        whole[: min(size, len(table))] = table[:size]
        student_ids, teacher_ids = np.unique(whole, return_index=True)
        known = student_ids >= 0
        columns = (torch.from_numpy(student_ids[known]).to(device), torch.from_numpy(teacher_ids[known]).to(device))
        return cls(teacher, torch.from_numpy(whole).to(device), columns)


def needs_frozen(objectives: Sequence[Objective]) -> bool:
    """Whether any of these objectives reads parameters of the teacher."""
    return any(_reads_head(objective) or isinstance(objective, EmbeddingsObjective) for objective in objectives)


def load_frozen(section: TeacherSection, objectives: Sequence[Objective], *, device: str) -> FrozenTeacher:
    """The parts of a teacher that the objectives read, in float32; its layers are let go."""
    assert section.model is not None
    encoder = load_encoder(
        section.model,
        revision=section.revision,
        dtype="float32",
        device="cpu",
        need_head=any(map(_reads_head, objectives)),
    )
    del encoder.layers[:]
    return FrozenTeacher(freeze(encoder).to(device))


def _reads_head(objective: Objective) -> bool:
    match objective:
        case LogitMatchingObjective() | SoftmaxRegressionObjective() | SoftTargetsObjective(signal="exact"):
            return True
        case _:
            return False
