"""Logit matching through the output layer, without keeping the logits of either model.

Shape legend: M positions, V vocabulary, C columns that both vocabularies have, D width of the head's states.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from orchestrator.losses.attached import attach_gradients, product_dtype
from orchestrator.losses.base import LossSum, widen

_CHUNK_BYTES = 64 << 20  # of float32 logits of either model


def linear_logit_matching(
    hidden: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    teacher_states: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    columns: tuple[Tensor, Tensor] | None = None,
    centred: bool = False,
    chunk_bytes: int = _CHUNK_BYTES,
) -> LossSum:
    """`logit_matching` of z_S = h_S·Wᵀ + b and z_T = h_T·W_Tᵀ + b_T, with its gradients, chunk by chunk.

    Formula: Σ_positions ½·‖z_T − z_S‖² over the C tokens that both vocabularies have; `centred` takes the mean of each
    side over those tokens off first.

    Paper: Ba & Caruana 2014.

    Inputs: hidden [M, D] float, after the student's head transform; weight [V, D], bias [V] or None; teacher_states
    [M, D_T] what the teacher's decoder reads; teacher_weight [V_T, D_T], teacher_bias [V_T] or None; columns (int64 [C]
    student ids, int64 [C] teacher ids) in pairs, None when the vocabularies are the same. Products run in the dtype of
    autocast where that is on, differences and sums in float32.

    Related: `logit_matching`, of logits as they are.

    Example: linear_logit_matching(h, weight=w, bias=None, teacher_states=h, teacher_weight=w, teacher_bias=None) -> 0
    """
    parameters, dtype = (hidden, weight, bias), product_dtype(hidden)
    wanted = [torch.is_grad_enabled() and p is not None and p.requires_grad for p in parameters]
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        own, theirs = (None, None) if columns is None else columns
        matrix, offset = _rows(weight, own, dtype), _rows(bias, own, dtype)
        teacher_matrix, teacher_offset = _rows(teacher_weight, theirs, dtype), _rows(teacher_bias, theirs, dtype)
        assert matrix is not None
        assert teacher_matrix is not None
        states, answers = hidden.to(dtype), teacher_states.to(dtype)
        grad_hidden = torch.zeros_like(states)
        grad_matrix = widen(torch.zeros_like(matrix)) if wanted[1] else None
        grad_offset = widen(torch.zeros_like(matrix[:, 0])) if wanted[2] else None
        total = widen(states.new_zeros(()))
        num_rows = max(1, chunk_bytes // (4 * max(1, len(matrix))))
        for first in range(0, len(states), num_rows):
            rows = slice(first, first + num_rows)
            difference = widen(linear(states[rows], matrix, offset)) - widen(
                linear(answers[rows], teacher_matrix, teacher_offset)
            )
            if centred:
                difference = difference - difference.mean(-1, keepdim=True)
            total = total + 0.5 * difference.square().sum()
            change = difference.to(dtype)
            grad_hidden[rows] = change @ matrix
            if grad_matrix is not None:
                grad_matrix += widen(change.T @ states[rows])
            if grad_offset is not None:
                grad_offset += difference.sum(0)
        gradients = [grad_hidden, _whole(grad_matrix, own, weight), _whole(grad_offset, own, bias)]
    if any(wanted):
        total = attach_gradients(total, inputs=parameters, gradients=gradients)
    return LossSum(total, torch.full((), len(hidden), dtype=torch.int64, device=hidden.device))


def _rows(parameter: Tensor | None, ids: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if parameter is None:
        return None
    return (parameter if ids is None else parameter[ids]).to(dtype)


def _whole(gradient: Tensor | None, ids: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    """The gradient of all rows of a parameter from that of the rows `ids`."""
    if gradient is None or ids is None or parameter is None:
        return gradient
    return torch.zeros_like(parameter, dtype=gradient.dtype).index_copy_(0, ids, gradient)
