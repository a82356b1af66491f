"""Losses on sentence vectors.

Shape legend: B sentences or pairs of parallel sentences, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.losses.base import LossSum, masked_sum, widen
from orchestrator.losses.hidden import unit


def mean_pool(hidden: Tensor, *, valid: Tensor) -> Tensor:
    """The mean of the hidden states [B, L, D] over the valid tokens, bool [B, L] -> float32 [B, D]; 0 without any."""
    padding = ~valid.unsqueeze(-1)
    return widen(hidden).masked_fill(padding, 0.0).sum(1) / valid.sum(1, keepdim=True).clamp_min(1)


def parallel_sentences(student_source: Tensor, *, student_target: Tensor, teacher_source: Tensor) -> LossSum:
    """Put a sentence and its translation where the teacher puts the sentence.

    Formula: Σ_pairs ‖M(s) − M̂(s)‖² + ‖M(s) − M̂(t)‖², sums over the width; M the teacher, M̂ the student.

    Paper: Reimers & Gurevych 2020.

    Inputs: student_source, student_target, teacher_source float [B, D], mean-pooled vectors of the source sentence, of
    its translation, and of the source sentence by the teacher.

    Related: `mean_pool`, `contrastive`.

    Example: parallel_sentences(torch.zeros(1, 2), student_target=torch.ones(1, 2), teacher_source=torch.ones(1, 2))
    -> total 2, count 1
    """
    halves = [sentence_mse(vectors, teacher_source) for vectors in (student_source, student_target)]
    return LossSum(halves[0].total + halves[1].total, halves[0].count)


def sentence_mse(student: Tensor, teacher: Tensor) -> LossSum:
    """Squared distance between a student's vector of a sentence and the teacher's of it, or of what it translates.

    Formula: Σ_sentences ‖M̂(t) − M(s)‖², a sum over the width: one of the two halves of `parallel_sentences`.

    Paper: Reimers & Gurevych 2020.

    Inputs: student and teacher float [B, D].

    Example: sentence_mse(torch.zeros(1, 2), torch.ones(1, 2)) -> total 2, count 1
    """
    return masked_sum((widen(student) - widen(teacher.detach())).square().sum(-1), None)


def contrastive(student: Tensor, teacher: Tensor, *, temperature: float = 0.05) -> LossSum:
    """Find the teacher's vector of the same sentence, or of its translation, among those of the whole batch.

    Formula: Σ_i −log softmax_j(cos(s_i, t_j) / τ) at j = i. The other sentences of the batch are the negatives, so this
    is the one loss that depends on how a step is cut into micro-batches.

    Paper: InfoNCE (van den Oord et al. 2018); for distillation CRD (Tian et al. 2020).

    Inputs: student and teacher float [B, D], row i of both belonging together.

    Related: `parallel_sentences`.

    Example: contrastive(torch.eye(2), torch.eye(2), temperature=1.0) -> total 2·log(1 + 1/e), count 2
    """
    with torch.autocast(student.device.type, enabled=False):
        scores = unit(widen(student)) @ unit(widen(teacher.detach())).T / temperature
    return masked_sum(torch.logsumexp(scores, dim=-1) - scores.diagonal(), None)
