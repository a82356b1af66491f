"""Sparse target distributions over the student's vocabulary, from what a teacher left behind.

Shape legend: M positions, V vocabulary, K kept ids per position.

A teacher's id outside the student's vocabulary is -1 when it arrives here, and several teacher ids may have become
one student id; their masses add.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from orchestrator.losses.base import widen

#: What becomes of the mass that is not on a kept id.
Tail: TypeAlias = Literal["ghost", "renormalise", "drop"]


class SparseTargets(NamedTuple):
    """The known part of one distribution per position.

    Every id occurs at most once in its row, and a row sums to at most one.
    """

    ids: Tensor  # int64 [M, K], -1 where there is none
    log_probs: Tensor  # float32 [M, K], -inf where there is none

    @property
    def valid(self) -> Tensor:
        """Positions that say anything at all: bool [M]."""
        return (self.ids >= 0).any(-1)


def merge_duplicates(ids: Tensor, *, log_probs: Tensor) -> SparseTargets:
    """Join equal ids of a row into one entry whose mass is their sum; the entries of a row come out sorted by id.

    Inputs: ids int64 [M, K] with -1 for no id, log_probs float [M, K]. Returns the same shapes.

    Example: ids [[5, 5, -1]] with masses [[0.2, 0.3, 0.5]] -> ids [[-1, 5, -1]] with masses [[0, 0.5, 0]]
    """
    ids, order = ids.sort(dim=-1)
    probs = widen(log_probs).exp().gather(-1, order).masked_fill(ids < 0, 0.0)
    starts = torch.ones_like(ids, dtype=torch.bool)
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    group = starts.cumsum(-1) - 1  # index of the entry's run within its row; runs are fewer than entries
    merged = torch.zeros_like(probs).scatter_add_(-1, group, probs)
    first = starts & (ids >= 0)
    return SparseTargets(ids.masked_fill(~first, -1), merged.gather(-1, group).log().masked_fill(~first, -math.inf))


def top_k_targets(
    ids: Tensor,
    *,
    log_probs: Tensor,
    logsumexp: Tensor | None = None,
    logsumexp_t: Tensor | None = None,
    temperature: float = 1.0,
) -> SparseTargets:
    """The teacher's k best ids with their mass under softmax(z_T / T) over the teacher's *whole* vocabulary.

    Formula: log t_i = (log p_i + log Z_1) / T − log Z_T, with log Z_T = logsumexp(z_T / T). A row that exceeds one,
    which half-precision storage can cause, is scaled back to one.

    Inputs: ids int64 [M, K] of the student with -1 for none, log_probs float [M, K] at temperature 1, logsumexp
    float [M] of the raw logits, logsumexp_t float [M] at `temperature` (None will do for both when that is 1).

    Errors: ValueError when `temperature` is not 1 and one of the two is missing; a truncated list cannot replace it.
    """
    log_probs = widen(log_probs.detach())
    if temperature != 1.0:
        if logsumexp is None or logsumexp_t is None:
            raise ValueError(
                f"soft targets at temperature {temperature} need the teacher's log-partition at 1 and at that "
                "temperature; capture them with the signal"
            )
        log_probs = (log_probs + logsumexp.detach().unsqueeze(-1)) / temperature - logsumexp_t.detach().unsqueeze(-1)
    targets = merge_duplicates(ids, log_probs=log_probs)
    excess = targets.log_probs.logsumexp(-1, keepdim=True).clamp_min(0.0)
    return targets._replace(log_probs=targets.log_probs - excess)


class TailedTargets(NamedTuple):
    """Sparse targets with the rest decided: the loss is `negative_entropy` plus a cross-entropy to these masses."""

    ids: Tensor  # int64 [M, K], -1 where there is none
    probs: Tensor  # float32 [M, K], 0 where there is none
    tail: Tensor  # float32 [M] mass of the ghost bucket; 0 without one
    negative_entropy: Tensor  # float32 [M] Σ t·log t over kept ids and bucket


def settle_tail(targets: SparseTargets, *, tail: Tail, vocab_size: int) -> TailedTargets:
    """Give the unknown rest of each distribution to a ghost bucket, to the kept ids in proportion, or to nobody.

    A row that keeps all `vocab_size` ids has nowhere to put a ghost bucket and goes without.
    """
    kept, log_probs = targets.ids >= 0, targets.log_probs
    log_mass = log_probs.logsumexp(-1)
    if tail == "renormalise":
        log_probs = log_probs - log_mass.masked_fill(~targets.valid, 0.0).unsqueeze(-1)
    bucket = torch.zeros_like(log_mass)
    if tail == "ghost":
        bucket = -torch.expm1(log_mass).masked_fill(kept.sum(-1) >= vocab_size, 0.0)
    probs = log_probs.exp()
    entropy = (probs * log_probs.masked_fill(~kept, 0.0)).sum(-1) + torch.xlogy(bucket, bucket)
    return TailedTargets(targets.ids, probs, bucket, entropy)


def sampled_targets(ids: Tensor, *, counts: Tensor) -> SparseTargets:
    """Ids drawn from the teacher with replacement, and how often each came: t = counts / n.

    Formula: E[t] is the teacher's distribution, so the gradient p − t is unbiased; use `drop` for the tail. Draws of an
    id that the student lacks count in n and are otherwise lost.

    Paper: Anshumann et al. 2025 (Sparse Logit Sampling).

    Inputs: ids int64 [M, K] of the student with -1 for none, counts any integer type [M, K], 0 where nothing was drawn.

    Example: ids [[4, 9]], counts [[3, 1]] -> masses 0.75 and 0.25
    """
    share = counts.float() / counts.sum(-1, keepdim=True).clamp_min(1)
    return merge_duplicates(ids.masked_fill(counts == 0, -1), log_probs=share.log())


class ExactTargets(NamedTuple):
    """The teacher's whole distribution, to be rebuilt from its states and its frozen decoder where it is needed."""

    states: Tensor  # float [M, D_T], after the head's transform
    weight: Tensor  # float [V_T, D_T]
    bias: Tensor | None  # float [V_T]
    student_ids: Tensor | None = None  # int64 [V_T], -1: outside the student's vocabulary; None: the same vocabulary


def dense_probs(
    teacher_logits: Tensor, *, temperature: float, vocab_size: int, student_ids: Tensor | None = None
) -> Tensor:
    """softmax(z_T / T) over the student's vocabulary: float32 [M, vocab_size], without gradient.

    Masses of teacher ids that became one student id add. What lies outside the student's vocabulary cannot be learnt;
    the rest is scaled up to one.

    Inputs: teacher_logits float [M, V_T]; student_ids int64 [V_T] with -1 for outside, or None for the same vocabulary.

    Errors: ValueError when the vocabularies differ in size (padding rows count) and there is no map between them.
    """
    probs = (widen(teacher_logits.detach()) / temperature).softmax(-1)
    if student_ids is None:
        if probs.shape[-1] != vocab_size:
            raise ValueError(f"{probs.shape[-1]} teacher logits for a vocabulary of {vocab_size} need a map of ids")
        return probs
    known = student_ids >= 0
    spare = probs.new_zeros(len(probs), vocab_size + 1)
    mapped = spare.index_add_(-1, student_ids.masked_fill(~known, vocab_size), probs)[:, :vocab_size]
    return mapped / mapped.sum(-1, keepdim=True).clamp_min(torch.finfo(probs.dtype).tiny)
