"""Losses on self-attention, computed from queries, keys and values as the projections emit them.

Shape legend: B rows, L tokens, D width of all heads together, H heads, d width of a head.

Queries, keys and values are [B, L, D] with the heads side by side, as a hook on a projection sees them; `join_heads`
brings [B, H, L, d] into that layout. `pairs` [B, L, L] says which token (second axis) may look at which (third):
padding is excluded in rows and columns, and so is what lies outside a local layer's window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from orchestrator.losses.base import LossSum, masked_sum, widen


def attention_pairs(valid: Tensor, *, window: int | None = None) -> Tensor:
    """bool [B, L, L] of the pairs that an encoder's attention uses, from valid bool [B, L].

    `window` keeps pairs at most that many positions apart (ModernBERT's local layers: half of `local_attention`).
    """
    pairs = valid.unsqueeze(-1) & valid.unsqueeze(-2)
    if window is None:
        return pairs
    position = torch.arange(valid.shape[-1], device=valid.device)
    return pairs & ((position.unsqueeze(-1) - position).abs() <= window)


def split_heads(states: Tensor, *, num_heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, d], for the model's own heads or for any number of relation heads that divides D."""
    rows, tokens, width = states.shape
    return states.reshape(rows, tokens, num_heads, width // num_heads).transpose(1, 2)


def join_heads(states: Tensor) -> Tensor:
    """[B, H, L, d] -> [B, L, D]: transposed first, so that each token's heads lie side by side."""
    return states.transpose(1, 2).flatten(-2)


def attention_scores(query: Tensor, key: Tensor, *, num_heads: int) -> Tensor:
    """Q·Kᵀ/√d per head, before mask and softmax: query and key [B, L, D] float -> float32 [B, H, L, L]."""
    queries, keys = (split_heads(widen(states), num_heads=num_heads) for states in (query, key))
    with torch.autocast(query.device.type, enabled=False):
        return queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])


def attention_scores_mse(student: Tensor, teacher: Tensor, *, pairs: Tensor) -> LossSum:
    """Mean squared error of attention scores.

    Formula: Σ (A_S − A_T)² over heads and pairs, A = Q·Kᵀ/√d before the softmax and without the additive mask; the
    count is the number of those elements.

    Paper: TinyBERT (Jiao et al. 2020).

    Inputs: student and teacher float [B, H, L, L] with as many heads, pairs bool [B, L, L].

    Related: `attention_scores`, `attention_kl`.

    Example: attention_scores_mse(torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), pairs=torch.ones(1, 1, 1).bool())
    -> total 2, count 2
    """
    difference = widen(student) - widen(teacher.detach())
    return masked_sum(difference.square(), pairs.unsqueeze(1).expand_as(difference))


def attention_kl(student: Tensor, teacher: Tensor, *, pairs: Tensor) -> LossSum:
    """KL between attention probabilities, teacher first, from the scores of both.

    Formula: Σ KL(softmax(A_T) ‖ softmax(A_S)) over heads and rows, the softmax over the columns that `pairs` allows;
    the count is heads times rows. Rows without any column are padding.

    Paper: MiniLM (Wang et al. 2020), SID (Aguilar et al. 2020), MobileBERT (Sun et al. 2020).

    Inputs: student and teacher float [B, H, L, L] scores with as many heads, pairs bool [B, L, L].

    Related: `attention_scores`, `relation_kl`.

    Example: attention_kl(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), pairs=torch.ones(1, 2, 2).bool())
    -> total 0, count 2
    """
    hidden = ~pairs.unsqueeze(1)
    lowest = torch.finfo(torch.float32).min
    log_p, log_t = (widen(scores).masked_fill(hidden, lowest).log_softmax(-1) for scores in (student, teacher.detach()))
    rows = (log_t.exp() * (log_t - log_p)).masked_fill(hidden, 0.0).sum(-1)
    return masked_sum(rows, pairs.any(-1).unsqueeze(1).expand_as(rows))


def relation_kl(student: Tensor, teacher: Tensor, *, num_relation_heads: int, pairs: Tensor) -> LossSum:
    """KL between self-relations of queries, of keys or of values, teacher first; widths and heads may differ.

    Formula: Σ KL(R_T ‖ R_S) over relation heads and rows, R = softmax(X·Xᵀ/√d_r) with X split anew into
    `num_relation_heads` heads of each model's own width d_r.

    Paper: MiniLM (Wang et al. 2020), values of the last layer; MiniLMv2 (Wang et al. 2021), QQ + KK + VV of any layer.

    Inputs: student float [B, L, D_S] and teacher float [B, L, D_T], of the same projection; pairs bool [B, L, L].

    Related: `attention_kl` on `attention_scores(query, key, ...)`, the other half of MiniLM; `join_heads`.

    Errors: RuntimeError when a width is no multiple of the relation heads.

    Example: relation_kl(torch.zeros(1, 2, 4), torch.zeros(1, 2, 8), num_relation_heads=2,
    pairs=torch.ones(1, 2, 2).bool()) -> total 0, count 4
    """
    student_scores = attention_scores(student, student, num_heads=num_relation_heads)
    teacher = teacher.detach()
    return attention_kl(student_scores, attention_scores(teacher, teacher, num_heads=num_relation_heads), pairs=pairs)
