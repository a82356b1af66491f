"""What every loss returns, and the arithmetic that they share.

Shape legend: B rows, L tokens, M masked positions, V vocabulary, K kept ids, D width, H heads.

Inputs of any float type are widened to float32 before the first operation (float64 stays float64, for checks of the
gradient). Teacher tensors are detached: no loss sends a gradient to a teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LossSum(NamedTuple):
    """A sum over valid elements and how many there were; the training loop divides once, over the whole step."""

    total: Tensor  # float32 scalar, differentiable
    count: Tensor  # type: ignore[assignment]  # int64 scalar; hides tuple.count, which nobody calls on a pair


def widen(values: Tensor) -> Tensor:
    """`values` in float32, or untouched where they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def masked_sum(values: Tensor, valid: Tensor | None) -> LossSum:
    """Sum `values` [...] where `valid` (bool, same shape) holds; all of them if it is None.

    An invalid value may be infinite or NaN, and gets no gradient; what it was computed from is the caller's concern.
    """
    if valid is None:
        return LossSum(values.sum(), torch.full((), values.numel(), dtype=torch.int64, device=values.device))
    return LossSum(values.masked_fill(~valid, 0.0).sum(), valid.sum())
