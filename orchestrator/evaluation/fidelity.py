"""How well a model fills masked positions and how closely it follows its teacher, as sums over masked positions.

Shape legend: M masked positions, C positions of one chunk, V vocabulary of the model, T vocabulary of its teacher,
W width of what a head reads. Logits exist for one chunk at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

#: Elements of one chunk of logits: 64 MB in float32, whatever the vocabulary.
_CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class MaskedHead:
    """A language-model head and what it reads at the M masked positions; all float32 on one device."""

    states: Tensor  # [M, W]
    weight: Tensor  # [V, W]
    bias: Tensor | None  # [V]

    def log_probs(self, rows: slice) -> Tensor:
        """Log-probabilities [C, V] at a slice of the positions."""
        return torch.nn.functional.linear(self.states[rows], self.weight, self.bias).log_softmax(dim=-1)


@dataclass(frozen=True)
class Labels:
    """The masked tokens in the ids of the model that is measured."""

    ids: Tensor  # int64 [M]; [UNK] where the model has no such token
    unknown: Tensor  # bool [M]: the model has no such token, or the text itself had [UNK] there
    num_bytes: Tensor  # int64 [M]: UTF-8 bytes of the token's surface

    def to(self, device: torch.device) -> Labels:
        """The same labels on `device`."""
        return Labels(self.ids.to(device), self.unknown.to(device), self.num_bytes.to(device))


@dataclass(frozen=True)
class MaskedScore:
    """Sums over masked positions. `nats` charges an unknown token as [UNK] and then its surface, byte for byte."""

    count: int = 0
    correct: int = 0
    unknown: int = 0
    nats: float = 0.0
    agreed: int = 0
    divergence: float = 0.0
    shared_divergence: float = 0.0
    outside: float = 0.0

    def __add__(self, other: MaskedScore) -> MaskedScore:
        return MaskedScore(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class TeacherView:
    """A teacher at the same M positions, and where each of its ids goes in the model's vocabulary."""

    head: MaskedHead
    id_map: Tensor  # int64 [T], -1 where the model has no such token


def score(head: MaskedHead, labels: Labels, *, unk: int, teacher: TeacherView | None = None) -> MaskedScore:
    """Measure a model at M masked positions, and against its teacher there when one is given.

    `correct` counts largest probabilities on the true token; a token unknown to the model is never right. `agreed`
    counts positions where the model's first choice is the teacher's first choice carried over to the model's ids.
    `divergence` sums KL(teacher ‖ model) in nats at temperature 1 (the fidelity of Stanton et al. 2021) over the
    tokens that both have and one bucket for all the rest, [UNK] included. `outside` sums the teacher's mass in that
    bucket, and `shared_divergence` the part of the divergence that arises within the shared tokens: what is left when
    a model is not blamed for the size of its vocabulary (the chain rule of KL).
    """
    total = MaskedScore()
    vocabulary = max(len(head.weight), len(teacher.head.weight) if teacher is not None else 0)
    step = max(32, _CHUNK_ELEMENTS // vocabulary)
    buckets = _Buckets.of(teacher.id_map, size=len(head.weight), unk=unk) if teacher is not None else None
    for start in range(0, len(labels.ids), step):
        rows = slice(start, start + step)
        log_probs = head.log_probs(rows)
        ids, unknown = labels.ids[rows], labels.unknown[rows]
        choice = log_probs.argmax(dim=-1)
        nats = -log_probs.gather(1, ids[:, None])[:, 0].double()
        nats += unknown * labels.num_bytes[rows] * (8 * math.log(2))
        total += MaskedScore(
            count=len(ids),
            correct=int(((choice == ids) & ~unknown).sum()),
            unknown=int(unknown.sum()),
            nats=float(nats.sum()),
        )
        if teacher is not None and buckets is not None:
            total += _compare(log_probs, choice, teacher, rows, buckets)
    return total


@dataclass(frozen=True)
class _Buckets:
    """Column of every teacher id among [model ids …, rest], and which model ids are shared and which are the rest."""

    column: Tensor  # int64 [T], V is the rest
    shared: Tensor  # int64, ascending
    rest: Tensor  # int64, ascending

    @classmethod
    def of(cls, id_map: Tensor, *, size: int, unk: int) -> _Buckets:
        shared = (id_map >= 0) & (id_map != unk)
        column = torch.where(shared, id_map, size)
        alone = torch.ones(size, dtype=torch.bool, device=id_map.device)
        alone[id_map[shared]] = False
        return cls(column, (~alone).nonzero()[:, 0], alone.nonzero()[:, 0])


def _compare(log_probs: Tensor, choice: Tensor, teacher: TeacherView, rows: slice, buckets: _Buckets) -> MaskedScore:
    probs = teacher.head.log_probs(rows).exp_()
    agreed = teacher.id_map[probs.argmax(dim=-1)] == choice
    carried = log_probs.new_zeros(len(choice), log_probs.shape[1] + 1).index_add_(1, buckets.column, probs)
    shared, outside = carried[:, :-1], carried[:, -1]
    rest = log_probs[:, buckets.rest].logsumexp(dim=-1)
    within = torch.special.xlogy(shared, shared).sub_(shared * log_probs).sum(dim=-1)
    # summed over the shared tokens, and not 1 - rest, which is all rounding where the model has little on them
    own_kept = log_probs[:, buckets.shared].logsumexp(dim=-1).clamp_min(torch.finfo(torch.float32).min)
    kept = shared.sum(dim=-1)
    between = torch.special.xlogy(outside, outside) - outside * rest
    between_kept = torch.special.xlogy(kept, kept) - kept * own_kept
    return MaskedScore(
        agreed=int(agreed.sum()),
        divergence=float((within + between).double().sum()),
        shared_divergence=float((within - between_kept).double().sum()),
        outside=float(outside.double().sum()),
    )
