"""A value whose gradients were computed along with it, for losses that cannot keep what autograd would keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx, once_differentiable


def attach_gradients(total: Tensor, *, inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> Tensor:
    """`total`, such that its backward pass hands `gradients[i]`, times what comes from above, to `inputs[i]`.

    Inputs: total, a scalar without graph; gradients in the shape of their inputs, None where none is wanted; they are
    cast to the dtype of the input.
    """
    cast = [None if x is None or g is None else g.to(x.dtype) for x, g in zip(inputs, gradients, strict=True)]
    result = _Attached.apply(total, *inputs, *cast)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def product_dtype(states: Tensor) -> torch.dtype:
    """The dtype in which a linear map of `states` is to be computed: autocast's where that is on, else their own."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor | None, ...]


class _Attached(Function):
    @staticmethod
    def forward(ctx: _Context, total: Tensor, *inputs_and_gradients: Tensor | None) -> Tensor:
        gradients = inputs_and_gradients[len(inputs_and_gradients) // 2 :]
        ctx.save_for_backward(*gradients)  # type: ignore[arg-type]  # None is kept too
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # The usual upstream gradient is 1, and then the saved gradients become the parameters' without a copy. Looking
        # is free on a CPU; elsewhere it would wait for the device.
        one = upstream.device.type == "cpu" and upstream.item() == 1.0
        scaled = [g if g is None or one else g * upstream for g in ctx.saved_tensors]
        return (None, *scaled, *(None for _ in scaled))
