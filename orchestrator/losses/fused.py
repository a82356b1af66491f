"""The language-model head with masked LM and sparse soft targets in one pass that keeps no logits.

Shape legend: M positions, V vocabulary, K kept ids per position, D width of the head's states.

The gradients are computed together with the losses, while the logits are at hand, as in Liger (Hsu et al. 2024).
Positions go through in chunks: the logits of a chunk exist once, in the precision of the matrix product, and are
overwritten by their gradient block by block; only a block of a few rows, small enough for a core's cache, is ever
float32. One softmax serves both losses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx, once_differentiable

from orchestrator.losses.base import LossSum, masked_sum, widen
from orchestrator.losses.targets import SparseTargets, Tail, settle_tail

_CHUNK_BYTES = 128 << 20
_CACHE_BYTES = 4 << 20
_FLOOR = 1e-30  # of the student's mass outside the kept ids, relative to its best logit


class OutputLosses(NamedTuple):
    """The weighted total to differentiate, and the raw terms for the log."""

    total: Tensor  # float32 scalar, differentiable
    masked_lm: LossSum  # detached
    soft_targets: LossSum  # detached


def linear_output_losses(
    hidden: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    targets: SparseTargets | None,
    masked_lm_scale: float,
    soft_targets_scale: float,
    temperature: float = 1.0,
    tail: Tail = "ghost",
    chunk_bytes: int = _CHUNK_BYTES,
) -> OutputLosses:
    """Masked LM and sparse soft targets of z = h·Wᵀ + b, with their gradients, without keeping z.

    Formula: masked_lm_scale · Σ −log p(label) + soft_targets_scale · T²·Σ KL(t ‖ softmax(z/T)), the terms exactly as
    in `masked_lm` and `sparse_kl`. A scale is the weight of the term over its count in the whole step: the number of
    labels ≥ 0, and of positions with any kept id. Both must be known here, because the two gradients are added before
    they meet h and W.

    Paper: BERT (Devlin et al. 2019) and Hinton et al. 2015.

    Inputs: hidden [M, D] float, after the head's transform; weight [V, D] float; bias [V] float or None; labels
    int64 [M], -1 where there is none; targets as from `top_k_targets` at `temperature`, or None; chunk_bytes the
    memory for one chunk of logits. The products run in the dtype of `hidden`, or in autocast's where that is on;
    softmax and sums in float32.

    Related: `masked_lm`, `sparse_kl`: the same values, one at a time.

    Example: linear_output_losses(h, weight=w, bias=None, labels=y, targets=None, masked_lm_scale=1 / len(y),
    soft_targets_scale=0.0).total.backward()
    """
    device, parameters = hidden.device.type, (hidden, weight, bias)
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    wide = torch.promote_types(dtype, torch.float32)
    wanted = [torch.is_grad_enabled() and p is not None and p.requires_grad for p in parameters]
    with torch.no_grad(), torch.autocast(device, enabled=False):
        if targets is None:
            none = labels.new_empty(len(labels), 0)
            targets, temperature = SparseTargets(none, none.to(wide)), 1.0
        settled = settle_tail(targets, tail=tail, vocab_size=len(weight))
        lm_valid, soft_valid = labels >= 0, targets.valid
        positions = _Positions(
            label=labels.masked_fill(~lm_valid, len(weight)).unsqueeze(-1),
            kept=settled.ids.masked_fill(settled.ids < 0, len(weight)),
            probs=settled.probs,
            tail=settled.tail.unsqueeze(-1),
            lm_scale=masked_lm_scale * lm_valid.to(wide).unsqueeze(-1),
            soft_scale=soft_targets_scale * temperature * soft_valid.to(wide).unsqueeze(-1),
        )
        num_chunks = max(1, -(-len(hidden) * len(weight) * dtype.itemsize // chunk_bytes))
        values, gradients = _forward_and_backward(
            hidden.to(dtype),
            weight=weight.to(dtype),
            bias=None if bias is None else widen(bias),
            positions=positions,
            temperature=temperature,
            num_rows=max(1, -(-len(hidden) // num_chunks)),
            wanted=wanted,
        )
        masked_lm = masked_sum(values[:, 0], lm_valid)
        soft_targets = masked_sum((values[:, 1] + settled.negative_entropy) * temperature**2, soft_valid)
        total = masked_lm_scale * masked_lm.total + soft_targets_scale * soft_targets.total
    if any(wanted):
        cast = [g if g is None or p is None else g.to(p.dtype) for g, p in zip(gradients, parameters, strict=True)]
        del gradients
        total = _attach_gradients(total, *parameters, *cast)
    return OutputLosses(total, masked_lm, soft_targets)


class _Positions(NamedTuple):
    """What each position is held to. An index of V means none: it points at a spare column beside the logits."""

    label: Tensor  # int64 [M, 1]
    kept: Tensor  # int64 [M, K]
    probs: Tensor  # float32 [M, K]
    tail: Tensor  # float32 [M, 1]
    lm_scale: Tensor  # float32 [M, 1]
    soft_scale: Tensor  # float32 [M, 1], with the one T that T² leaves in the gradient of z

    def rows(self, rows: slice) -> _Positions:
        return _Positions(*(column[rows] for column in self))

    def masked_lm_only(self) -> _Positions:
        none = self.kept[:, :0]
        return self._replace(kept=none, probs=self.probs[:, :0], tail=torch.zeros_like(self.tail))

    def soft_targets_only(self) -> _Positions:
        return self._replace(lm_scale=torch.zeros_like(self.lm_scale))


def _forward_and_backward(
    hidden: Tensor,
    *,
    weight: Tensor,
    bias: Tensor | None,
    positions: _Positions,
    temperature: float,
    num_rows: int,
    wanted: list[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """Values [M, 2] of the two terms and the gradients of hidden, weight and bias, `num_rows` positions at a time."""
    grad_hidden = torch.empty_like(hidden) if wanted[0] else None
    grad_weight: Tensor | None = None
    grad_bias = torch.zeros_like(bias) if wanted[2] and bias is not None else None
    values = []
    for first in range(0, len(hidden), num_rows):
        rows = slice(first, first + num_rows)
        logits = hidden[rows] @ weight.T
        values.append(
            _replace_by_gradient(
                logits, bias=bias, positions=positions.rows(rows), temperature=temperature, grad_bias=grad_bias
            )
        )
        if grad_hidden is not None:
            torch.mm(logits, weight, out=grad_hidden[rows])
        if wanted[1]:
            product = logits.T @ hidden[rows]
            if num_rows < len(hidden):
                product = widen(product)  # several chunks are added up, which bfloat16 would round each time
            grad_weight = product if grad_weight is None else grad_weight.add_(product)
    return torch.cat(values) if values else positions.tail.new_zeros(0, 2), [grad_hidden, grad_weight, grad_bias]


def _replace_by_gradient(
    logits: Tensor, *, bias: Tensor | None, positions: _Positions, temperature: float, grad_bias: Tensor | None
) -> Tensor:
    """Overwrite logits [m, V] by the gradient of the scaled losses, and return values [m, 2]; `grad_bias` is added to.

    The soft targets' value lacks the constant Σ t·log t.
    """
    num_rows, vocab_size = logits.shape
    block = num_rows
    if logits.device.type == "cpu":
        block = min(num_rows, max(1, _CACHE_BYTES // (4 * vocab_size)))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    buffers = [logits.new_zeros(block, vocab_size + 1, dtype=dtype) for _ in range(1 if temperature == 1.0 else 2)]
    values = logits.new_empty(num_rows, 2, dtype=dtype)
    for first in range(0, num_rows, block):
        rows = slice(first, min(first + block, num_rows))
        here = positions.rows(rows)
        wide, scaled = (buffer[: rows.stop - first] for buffer in (buffers[0], buffers[-1]))
        z = wide[:, :vocab_size]
        z.copy_(logits[rows])
        if bias is not None:
            z.add_(bias)
        wide[:, vocab_size:] = 0.0
        label_logit, kept_logits = wide.gather(-1, here.label), wide.gather(-1, here.kept) / temperature
        if temperature == 1.0:
            log_z, log_tail = _softmax_gradient(wide, here)
            log_z_soft = log_z
        else:
            torch.div(wide, temperature, out=scaled)
            log_z_soft, log_tail = _softmax_gradient(scaled, here.soft_targets_only())
            log_z, _ = _softmax_gradient(wide, here.masked_lm_only())
            z.add_(scaled[:, :vocab_size])
        logits[rows] = z
        if grad_bias is not None:
            grad_bias.add_(z.sum(0))
        cross_entropy = (here.probs * (log_z_soft - kept_logits)).sum(-1, keepdim=True) - here.tail * log_tail
        values[rows] = torch.cat([log_z - label_logit, cross_entropy], dim=-1)
    return values


def _softmax_gradient(wide: Tensor, positions: _Positions) -> tuple[Tensor, Tensor]:
    """Overwrite z [n, V] and a spare column by the gradient of the losses; return log Z [n, 1] and log(1−s) [n, 1].

    With E the exponentials, w = Σ_K t + tail and the two scales c: c_lm·(p − 1_label) + c_soft·(w·p − t − tail·share),
    where share is E over its own sum in the tail and 0 at kept ids. That sum is taken with the kept entries blanked
    out, not as a difference, so that it is right when nearly all mass is on kept ids.
    """
    z, kept = wide[:, :-1], positions.kept
    peak = z.amax(-1, keepdim=True)
    z.sub_(peak).exp_()
    wide[:, -1:] = 0.0
    kept_mass = wide.gather(-1, kept)
    wide.scatter_(-1, kept, 0.0)
    rest = z.sum(-1, keepdim=True).clamp_min(_FLOOR)
    total = rest + kept_mass.sum(-1, keepdim=True)
    soft_mass = positions.probs.sum(-1, keepdim=True) + positions.tail
    factor = (positions.lm_scale + positions.soft_scale * soft_mass) / total
    z.mul_(factor - positions.soft_scale * positions.tail / rest)
    wide.scatter_(-1, kept, kept_mass * factor - positions.soft_scale * positions.probs)
    wide.scatter_add_(-1, positions.label, -positions.lm_scale)
    return peak + total.log(), rest.log() - total.log()


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor | None, ...]


class _AttachGradients(Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(
        ctx: _Context,
        total: Tensor,
        hidden: Tensor,  # noqa: ARG004
        weight: Tensor,  # noqa: ARG004
        bias: Tensor | None,  # noqa: ARG004
        *gradients: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(*gradients)  # type: ignore[arg-type]  # None is kept too
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # The usual upstream gradient is 1, and then the saved gradients become the parameters' without a copy. Looking
        # is free on a CPU; elsewhere it would wait for the device.
        one = upstream.device.type == "cpu" and upstream.item() == 1.0
        scaled = (g if g is None or one else g * upstream for g in ctx.saved_tensors)
        return (None, *scaled, None, None, None)


def _attach_gradients(total: Tensor, *tensors: Tensor | None) -> Tensor:
    result = _AttachGradients.apply(total, *tensors)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result
