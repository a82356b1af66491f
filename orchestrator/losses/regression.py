"""Softmax regression: the teacher's frozen head reads the student's states and its own.

Shape legend: M positions, V vocabulary, D width of the teacher, D' width of what its decoder reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear

from orchestrator.losses.attached import attach_gradients, product_dtype
from orchestrator.losses.base import LossSum, widen

Distance: TypeAlias = Literal["cross-entropy", "mse"]

_CHUNK_BYTES = 64 << 20  # of float32 logits of either model


def softmax_regression(
    student: Tensor,
    teacher: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    transform: Callable[[Tensor], Tensor] | None = None,
    distance: Distance = "cross-entropy",
    chunk_bytes: int = _CHUNK_BYTES,
) -> LossSum:
    """Distance between what the teacher's head says to the student's states and to the teacher's.

    Formula, with z_S = transform(h_S)·Wᵀ + b and z_T likewise: cross-entropy Σ_positions −Σ_V softmax(z_T)·log
    softmax(z_S), or mse Σ_positions (1/V)·‖z_S − z_T‖². The cross-entropy of equal states is the teacher's entropy, not
    zero; its gradient is zero. The head is frozen, but the gradient passes through it to the student. Logits live
    chunk by chunk.

    Paper: Yang et al. 2021; mse is what they released.

    Inputs: student [M, D] float, after the learned connector; teacher [M, D'] float, what its decoder reads, which is
    after the transform; weight [V, D'] and bias [V] of the teacher's decoder; transform, the head's dense, activation
    and LayerNorm [M, D] -> [M, D'], whose parameters are frozen by the caller, or None when the connector leads to D'.

    Related: `exact_soft_targets`, where the student has a head of its own.

    Example: softmax_regression(h, h, weight=w, bias=None, distance="mse") -> total 0
    """
    states, dtype = student if transform is None else transform(student), product_dtype(student)
    with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
        inputs, targets, matrix = states.to(dtype), teacher.to(dtype), weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        gradient, values = torch.empty_like(inputs), []
        num_rows = max(1, chunk_bytes // (4 * len(weight)))
        for first in range(0, len(inputs), num_rows):
            rows = slice(first, first + num_rows)
            z, goal = (widen(linear(h[rows], matrix, offset)) for h in (inputs, targets))
            value, change = _cross_entropy(z, goal) if distance == "cross-entropy" else _mse(z, goal)
            values.append(value)
            gradient[rows] = change.to(dtype) @ matrix
        total = torch.stack(values).sum() if values else widen(inputs).sum()
    if torch.is_grad_enabled() and states.requires_grad:
        total = attach_gradients(total, inputs=[states], gradients=[gradient])
    return LossSum(total, torch.full((), len(student), dtype=torch.int64, device=student.device))


def _cross_entropy(z: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    t, log_p = goal.softmax(-1), z.log_softmax(-1)
    return -(t * log_p).sum(), log_p.exp() - t


def _mse(z: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    difference = z - goal
    return difference.square().mean(-1).sum(), difference * (2.0 / z.shape[-1])
