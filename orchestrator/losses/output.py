"""Losses at the output layer, on logits at the positions that need them.

Shape legend: M positions, V vocabulary, K kept ids per position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.losses.base import LossSum, masked_sum, widen
from orchestrator.losses.targets import (
    ExactTargets,
    SparseTargets,
    Tail,
    dense_probs,
    sampled_targets,
    settle_tail,
    top_k_targets,
)


def log_partition(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log Σ_v exp(z_v / T) in float32: logits [M, V] float -> [M]; differentiable, to be shared between losses."""
    return torch.logsumexp(widen(logits) / temperature if temperature != 1.0 else widen(logits), dim=-1)


def masked_lm(logits: Tensor, labels: Tensor, *, log_partition: Tensor | None = None) -> LossSum:
    """Negative log-likelihood of the true token at each masked position.

    Formula: Σ_positions log Z − z_label.

    Paper: BERT (Devlin et al. 2019).

    Inputs: logits [M, V] float; labels int64 [M], where -1 (a token that the vocabulary lacks) is not counted;
    log_partition float32 [M] at temperature 1, if it is known already.

    Related: `linear_output_losses` does this and soft targets without keeping the logits.

    Example: masked_lm(torch.zeros(2, 4), torch.tensor([3, -1])) -> total log 4, count 1
    """
    log_z = torch.logsumexp(widen(logits), dim=-1) if log_partition is None else log_partition
    valid = labels >= 0
    true_logits = widen(logits.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1))
    return masked_sum(log_z - true_logits, valid)


def sparse_kl(
    logits: Tensor, targets: SparseTargets, *, temperature: float, tail: Tail, log_partition: Tensor | None = None
) -> LossSum:
    """T²·KL from sparse targets t to the student's p = softmax(z / T), with three ways to treat the unknown rest.

    Formula, with a = Σ_K t and s = Σ_K p over the kept ids K:

    - ghost: Σ_K t·log(t/p) + (1−a)·log((1−a)/(1−s)). The gradient of z is p − t at kept ids and p − (1−a)·p/(1−s) in
      the tail: exact on the kept ids, the right total mass in the tail, no detail within it.
    - renormalise: Σ_K t'·log(t'/p) with t' = t/a. Biased: the optimum t/a is over-confident.
    - drop: Σ_K t·log(t/p). The gradient is a·p − t, so the optimum is the same t/a; the value may be negative.

    The tail of the student is summed directly rather than as 1 − s, so it keeps its precision when s approaches one. A
    vocabulary without a tail (every id kept) has no ghost bucket: the term becomes that of `drop`. A position without
    any kept id says nothing and is not counted.

    Paper: Hinton et al. 2015 for the temperature and T²; the ghost bucket is the coarsening of both distributions.

    Inputs: logits [M, V] float; targets as from `top_k_targets`; log_partition float32 [M] of z / T, if known already.

    Related: `sparse_soft_targets`, `soft_targets` for dense ones.

    Example: see `sparse_soft_targets`.
    """
    scaled = widen(logits) / temperature if temperature != 1.0 else widen(logits)
    log_z = torch.logsumexp(scaled, dim=-1) if log_partition is None else log_partition
    settled = settle_tail(targets, tail=tail, vocab_size=logits.shape[-1])
    log_p = scaled.gather(-1, settled.ids.clamp_min(0)) - log_z.unsqueeze(-1)
    value = settled.negative_entropy - (settled.probs * log_p).sum(-1)
    if tail == "ghost":
        # An entry without an id must hide nothing more: it points at the largest id of its row, which is kept.
        hidden = torch.where(targets.ids >= 0, targets.ids, targets.ids.amax(-1, keepdim=True).clamp_min(0))
        log_tail = torch.logsumexp(scaled.scatter(-1, hidden, torch.finfo(scaled.dtype).min), dim=-1) - log_z
        value = value - settled.tail * log_tail
    total, count = masked_sum(value, targets.valid)
    return LossSum(total * temperature**2, count)


def sparse_soft_targets(
    logits: Tensor,
    *,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    logsumexp: Tensor | None = None,
    logsumexp_t: Tensor | None = None,
    temperature: float = 1.0,
    tail: Tail = "ghost",
    log_partition: Tensor | None = None,
) -> LossSum:
    """T²·KL(teacher ‖ student) from the teacher's k best ids.

    Formula: `sparse_kl` of `top_k_targets`; T² is always applied.

    Paper: Hinton et al. 2015.

    Inputs: logits [M, V] float of the student; topk_ids int64 [M, K] in the student's vocabulary (-1: outside it, the
    mass joins the tail; equal ids add); topk_logprobs float [M, K] at temperature 1 over the teacher's whole
    vocabulary; logsumexp float [M] of the teacher's raw logits, logsumexp_t float [M] at `temperature`, needed when
    that is not 1; log_partition float32 [M] of the student's z / T, if known already.

    Errors: ValueError when the log-partition at a temperature other than 1 is missing.

    Related: `sparse_kl`, `masked_lm`, `linear_output_losses`.

    Example: logits log([[0.5, 0.25, 0.25]]), topk_ids [[0]], topk_logprobs [[log 0.5]] -> total 0, count 1
    """
    targets = top_k_targets(
        topk_ids, log_probs=topk_logprobs, logsumexp=logsumexp, logsumexp_t=logsumexp_t, temperature=temperature
    )
    return sparse_kl(logits, targets, temperature=temperature, tail=tail, log_partition=log_partition)


def sampled_soft_targets(
    logits: Tensor, *, sampled_ids: Tensor, sampled_counts: Tensor, log_partition: Tensor | None = None
) -> LossSum:
    """KL from an empirical distribution of ids drawn from the teacher, at temperature 1: its gradient is unbiased.

    Formula: Σ t·log(t/p) with t = counts / n; the gradient p − t has the dense p − p_T as its mean.

    Paper: Anshumann et al. 2025 (Sparse Logit Sampling).

    Inputs: logits [M, V] float; sampled_ids int64 [M, K] of the student, -1 for none; sampled_counts integer [M, K];
    log_partition float32 [M] of the student, if known already.

    Related: `sparse_soft_targets`, which is smoother and biased or coarse.

    Example: logits log([[0.5, 0.5]]), sampled_ids [[0, 1]], sampled_counts [[2, 2]] -> total 0, count 1
    """
    targets = sampled_targets(sampled_ids, counts=sampled_counts)
    return sparse_kl(logits, targets, temperature=1.0, tail="drop", log_partition=log_partition)


def hard_labels(logits: Tensor, *, teacher_ids: Tensor, log_partition: Tensor | None = None) -> LossSum:
    """Cross-entropy to the teacher's best id.

    Formula: Σ_positions log Z − z_j with j the argmax of the teacher's logits.

    Paper: Buciluă et al. 2006.

    Inputs: logits [M, V] float; teacher_ids int64 [M], -1 where the student lacks the teacher's best id (not
    counted); log_partition float32 [M], if known already.

    Related: `masked_lm`, the same with true tokens.

    Example: hard_labels(torch.zeros(2, 4), teacher_ids=torch.tensor([3, -1])) -> total log 4, count 1
    """
    return masked_lm(logits, teacher_ids, log_partition=log_partition)


def logit_matching(logits: Tensor, *, teacher_logits: Tensor, centred: bool = False) -> LossSum:
    """Half the squared distance between the logit vectors.

    Formula: Σ_positions ½·‖z_T − z_S‖², a sum over V; `centred` subtracts each vector's mean first, which a softmax
    does not see.

    Paper: Ba & Caruana 2014.

    Inputs: logits [M, V] float; teacher_logits [M, V] float.

    Related: `soft_targets`, whose limit for T → ∞ is the centred distance over V.

    Example: logit_matching(torch.zeros(1, 2), teacher_logits=torch.tensor([[1.0, 3.0]])) -> total 5, count 1
    """
    difference = widen(logits) - widen(teacher_logits.detach())
    if centred:
        difference = difference - difference.mean(-1, keepdim=True)
    return masked_sum(0.5 * difference.square().sum(-1), None)


def soft_targets(
    logits: Tensor, *, teacher_logits: Tensor, temperature: float = 1.0, log_partition: Tensor | None = None
) -> LossSum:
    """T²·KL(teacher ‖ student) over the whole vocabulary.

    Formula: Σ_positions T²·Σ_V t·log(t/p), t = softmax(z_T/T), p = softmax(z_S/T); T² is always applied.

    Paper: Hinton et al. 2015; at all positions in DistilBERT (Sanh et al. 2019).

    Inputs: logits [M, V] float; teacher_logits [M, V] float; log_partition float32 [M] of the student's z / T, if
    known already.

    Related: `sparse_soft_targets` from a cache of the best ids, `exact_soft_targets` from a cache of states.

    Example: soft_targets(torch.zeros(1, 2), teacher_logits=torch.tensor([[0.0, 0.0]])) -> total 0, count 1
    """
    probs = dense_probs(teacher_logits, temperature=temperature, vocab_size=logits.shape[-1])
    return _dense_kl(logits, probs=probs, temperature=temperature, log_partition=log_partition)


def exact_soft_targets(
    logits: Tensor, *, targets: ExactTargets, temperature: float = 1.0, log_partition: Tensor | None = None
) -> LossSum:
    """`soft_targets` with the teacher's logits rebuilt from its states and frozen decoder, at any temperature.

    Formula: as `soft_targets` with z_T = h_T·Wᵀ + b. Between vocabularies the masses are carried over by the map of
    ids, added where ids meet, and scaled up to one for what the student lacks.

    Paper: Hinton et al. 2015.

    Inputs: logits [M, V] float; targets; log_partition float32 [M] of the student's z / T, if known already.

    Related: `linear_output_losses`, which rebuilds them chunk by chunk and keeps neither model's logits.

    Example: exact_soft_targets(h @ w.T, targets=ExactTargets(h, w, None)) -> total 0
    """
    with torch.no_grad():
        teacher_logits = torch.nn.functional.linear(targets.states, targets.weight, targets.bias)
        probs = dense_probs(
            teacher_logits, temperature=temperature, vocab_size=logits.shape[-1], student_ids=targets.student_ids
        )
    return _dense_kl(logits, probs=probs, temperature=temperature, log_partition=log_partition)


def _dense_kl(logits: Tensor, *, probs: Tensor, temperature: float, log_partition: Tensor | None) -> LossSum:
    scaled = widen(logits) / temperature if temperature != 1.0 else widen(logits)
    log_z = torch.logsumexp(scaled, dim=-1) if log_partition is None else log_partition
    value = (torch.xlogy(probs, probs) - probs * (scaled - log_z.unsqueeze(-1))).sum(-1)
    total, count = masked_sum(value, None)
    return LossSum(total * temperature**2, count)
