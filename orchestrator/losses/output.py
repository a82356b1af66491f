"""Losses at the output layer, on logits at the positions that need them.

Shape legend: M positions, V vocabulary, K kept ids per position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.losses.base import LossSum, masked_sum, widen
from orchestrator.losses.targets import SparseTargets, Tail, settle_tail, top_k_targets


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
    logsumexp: Tensor,
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
