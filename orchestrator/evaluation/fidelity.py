"""How well a model fills masked positions and how closely it follows its teacher, as sums over masked positions.

Shape legend: M masked positions, C positions of one chunk, V vocabulary of the model, T vocabulary of its teacher,
W width of what a head reads, S teacher ids of shared tokens, U of these in the model's ids. Logits exist for one chunk
at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

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

    def logits(self, rows: slice) -> Tensor:
        """Logits [C, V] at a slice of the positions."""
        return torch.nn.functional.linear(self.states[rows], self.weight, self.bias)

    def label_logits(self, ids: Tensor) -> Tensor:
        """The logit of one id at each of the positions: ids [M] -> float32 [M]."""
        logits = torch.einsum("mw,mw->m", self.states, self.weight[ids])
        return logits if self.bias is None else logits + self.bias[ids]

    def columns(self, ids: Tensor) -> MaskedHead:
        """The same head with logits for a few ids alone."""
        return MaskedHead(self.states, self.weight[ids], None if self.bias is None else self.bias[ids])

    @cached_property
    def summary(self) -> Summary:
        """One pass over the vocabulary, for all who ask: several students follow one teacher at the same positions."""
        choice, peak, mass = [], [], []
        step = _step(len(self.weight))
        for start in range(0, len(self.states), step):
            logits = self.logits(slice(start, start + step))
            largest, where = logits.max(dim=-1)
            choice.append(where)
            peak.append(largest)
            mass.append(logits.sub_(largest[:, None]).exp_().sum(dim=-1))
        return Summary(torch.cat(choice), torch.cat(peak), torch.cat(mass))


@dataclass(frozen=True)
class Summary:
    """What turns single logits of a head into probabilities, and its first choice, at every position."""

    choice: Tensor  # int64 [M], the id of the largest logit
    peak: Tensor  # [M], the largest logit
    mass: Tensor  # [M], sum of exp(logit - peak)

    @property
    def log_partition(self) -> Tensor:
        """Log of the sum of exp(logit): float64 [M]."""
        return self.peak.double() + self.mass.double().log()


def _step(vocabulary: int) -> int:
    return max(32, _CHUNK_ELEMENTS // max(1, vocabulary))


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
    if teacher is None:
        found = head.summary
        return _plain(found.choice, found.log_partition - head.label_logits(labels.ids), labels, slice(None))
    total = MaskedScore()
    shared = _Shared.of(teacher.id_map, size=len(head.weight), unk=unk)
    answers = teacher.head.columns(shared.teacher_ids)
    step = _step(max(len(head.weight), len(answers.weight)))
    for start in range(0, len(labels.ids), step):
        rows = slice(start, start + step)
        log_probs = head.logits(rows).log_softmax(dim=-1)
        choice = log_probs.argmax(dim=-1)
        nats = -log_probs.gather(1, labels.ids[rows, None])[:, 0].double()
        total += _plain(choice, nats, labels, rows) + _compare(log_probs, choice, answers, teacher, rows, shared)
    return total


def _plain(choice: Tensor, nats: Tensor, labels: Labels, rows: slice) -> MaskedScore:
    ids, unknown = labels.ids[rows], labels.unknown[rows]
    nats = nats + unknown * labels.num_bytes[rows] * (8 * math.log(2))
    return MaskedScore(
        count=len(ids),
        correct=int(((choice == ids) & ~unknown).sum()),
        unknown=int(unknown.sum()),
        nats=float(nats.sum()),
    )


@dataclass(frozen=True)
class _Shared:
    """The tokens that teacher and model both have. Several teacher ids may be one id of the model."""

    teacher_ids: Tensor  # int64 [S], in the order of what they are to the model
    column: Tensor  # int64 [S], where in `ids` each of them is
    ids: Tensor  # int64 [U], the model's, ascending
    rest: Tensor  # int64 [V - U], the model's other ids, ascending

    @classmethod
    def of(cls, id_map: Tensor, *, size: int, unk: int) -> _Shared:
        there = ((id_map >= 0) & (id_map != unk)).nonzero()[:, 0]
        teacher_ids = there[id_map[there].argsort(stable=True)]
        targets = id_map[teacher_ids]
        is_new = targets.diff(prepend=targets.new_full((1,), -1)) > 0
        ids, column = targets[is_new], is_new.cumsum(dim=0) - 1
        alone = torch.ones(size, dtype=torch.bool, device=id_map.device)
        alone[ids] = False
        return cls(teacher_ids, column, ids, alone.nonzero()[:, 0])


def _compare(
    log_probs: Tensor, choice: Tensor, answers: MaskedHead, teacher: TeacherView, rows: slice, shared: _Shared
) -> MaskedScore:
    said = teacher.head.summary
    probs = answers.logits(rows).sub_(said.peak[rows, None]).exp_().div_(said.mass[rows, None])  # [C, S]
    if len(shared.ids) < len(shared.column):
        probs = probs.new_zeros(len(choice), len(shared.ids)).index_add_(1, shared.column, probs)
    kept = probs.sum(dim=-1)
    outside = (1 - kept).clamp_min(0)
    own = log_probs[:, shared.ids]
    rest = log_probs[:, shared.rest].logsumexp(dim=-1)
    # summed over the shared tokens, and not 1 - rest, which is all rounding where the model has little on them
    own_kept = own.logsumexp(dim=-1).clamp_min(torch.finfo(torch.float32).min)
    within = torch.special.xlogy(probs, probs).sub_(own.mul_(probs)).sum(dim=-1)
    between = torch.special.xlogy(outside, outside) - outside * rest
    between_kept = torch.special.xlogy(kept, kept) - kept * own_kept
    return MaskedScore(
        agreed=int((teacher.id_map[said.choice[rows]] == choice).sum()),
        divergence=float((within + between).double().sum()),
        shared_divergence=float((within - between_kept).double().sum()),
        outside=float(outside.double().sum()),
    )
