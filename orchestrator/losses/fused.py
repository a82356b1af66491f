"""The language-model head with masked LM and soft targets in one pass that keeps no logits.

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

from orchestrator.losses.attached import attach_gradients, product_dtype
from orchestrator.losses.base import LossSum, masked_sum, widen
from orchestrator.losses.targets import ExactTargets, SparseTargets, Tail, dense_probs, settle_tail

_CHUNK_BYTES = 128 << 20
_CACHE_BYTES = 4 << 20
_PIECE_ROWS = 2048
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
    targets: SparseTargets | ExactTargets | None,
    masked_lm_scale: float,
    soft_targets_scale: float,
    temperature: float = 1.0,
    tail: Tail = "ghost",
    chunk_bytes: int = _CHUNK_BYTES,
) -> OutputLosses:
    """Masked LM and soft targets of z = h·Wᵀ + b, with their gradients, without keeping z.

    Formula: masked_lm_scale · Σ −log p(label) + soft_targets_scale · T²·Σ KL(t ‖ softmax(z/T)), the terms exactly as
    in `masked_lm` and `sparse_kl` or `exact_soft_targets`. A scale is the weight of the term over its count in the
    whole step: the number of labels ≥ 0, and of positions with any kept id (for exact targets: all). Both must be
    known here, because the two gradients are added before they meet h and W.

    Paper: BERT (Devlin et al. 2019) and Hinton et al. 2015.

    Inputs: hidden [M, D] float, after the head's transform; weight [V, D] float; bias [V] float or None; labels
    int64 [M], -1 where there is none; targets as from `top_k_targets` at `temperature` or `sampled_targets`, or
    `ExactTargets`, or None; tail for sparse targets; chunk_bytes the memory for one chunk of logits. The products run
    in the dtype of `hidden`, or in autocast's where that is on; softmax and sums in float32.

    Related: `masked_lm`, `sparse_kl`, `exact_soft_targets`: the same values, one at a time.

    Example: linear_output_losses(h, weight=w, bias=None, labels=y, targets=None, masked_lm_scale=1 / len(y),
    soft_targets_scale=0.0).total.backward()
    """
    parameters, dtype = (hidden, weight, bias), product_dtype(hidden)
    wide = torch.promote_types(dtype, torch.float32)
    wanted = [torch.is_grad_enabled() and p is not None and p.requires_grad for p in parameters]
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        exact = targets._replace(weight=targets.weight.to(dtype)) if isinstance(targets, ExactTargets) else None
        if not isinstance(targets, SparseTargets):
            none = labels.new_empty(len(labels), 0)
            targets, tail = SparseTargets(none, none.to(wide)), "drop"
        settled = settle_tail(targets, tail=tail, vocab_size=len(weight))
        lm_valid = labels >= 0
        soft_valid = targets.valid if exact is None else torch.ones_like(lm_valid)
        positions = _Positions(
            label=labels.masked_fill(~lm_valid, len(weight)).unsqueeze(-1),
            kept=settled.ids.masked_fill(settled.ids < 0, len(weight)),
            probs=settled.probs,
            tail=settled.tail.unsqueeze(-1),
            mass=(settled.probs.sum(-1) + settled.tail if exact is None else soft_valid.to(wide)).unsqueeze(-1),
            lm_scale=masked_lm_scale * lm_valid.to(wide).unsqueeze(-1),
            soft_scale=soft_targets_scale * temperature * soft_valid.to(wide).unsqueeze(-1),
        )
        head = _Head(weight.to(dtype), None if bias is None else widen(bias), temperature, exact)
        values, gradients = _forward_and_backward(
            hidden.to(dtype), head=head, positions=positions, chunk_bytes=chunk_bytes, wanted=wanted
        )
        masked_lm = masked_sum(values[:, 0], lm_valid)
        soft_targets = masked_sum((values[:, 1] + settled.negative_entropy) * temperature**2, soft_valid)
        total = masked_lm_scale * masked_lm.total + soft_targets_scale * soft_targets.total
    if any(wanted):
        total = attach_gradients(total, inputs=parameters, gradients=gradients)
    return OutputLosses(total, masked_lm, soft_targets)


class _Head(NamedTuple):
    """What all positions share."""

    weight: Tensor  # [V, D], in the dtype of the products
    bias: Tensor | None  # float32 [V]
    temperature: float
    teacher: ExactTargets | None


class _Positions(NamedTuple):
    """What each position is held to. An index of V means none: it points at a spare column beside the logits."""

    label: Tensor  # int64 [M, 1]
    kept: Tensor  # int64 [M, K]
    probs: Tensor  # float32 [M, K]
    tail: Tensor  # float32 [M, 1]
    mass: Tensor  # float32 [M, 1] of all targets together
    lm_scale: Tensor  # float32 [M, 1]
    soft_scale: Tensor  # float32 [M, 1], with the one T that T² leaves in the gradient of z

    def rows(self, rows: slice) -> _Positions:
        return _Positions(*(column[rows] for column in self))

    def masked_lm_only(self) -> _Positions:
        nothing = torch.zeros_like(self.tail)
        return self._replace(kept=self.kept[:, :0], probs=self.probs[:, :0], tail=nothing, soft_scale=nothing)

    def soft_targets_only(self) -> _Positions:
        return self._replace(lm_scale=torch.zeros_like(self.lm_scale))


def _forward_and_backward(
    hidden: Tensor, *, head: _Head, positions: _Positions, chunk_bytes: int, wanted: list[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Values [M, 2] of the two terms and the gradients of hidden, weight and bias, chunk by chunk."""
    num_chunks = max(1, -(-len(hidden) * len(head.weight) * hidden.dtype.itemsize // chunk_bytes))
    num_rows = max(1, -(-len(hidden) // num_chunks))
    grad_hidden = torch.empty_like(hidden) if wanted[0] else None
    grad_weight = torch.empty_like(head.weight, dtype=positions.tail.dtype) if wanted[1] and len(hidden) else None
    grad_bias = torch.zeros_like(head.bias) if wanted[2] and head.bias is not None else None
    values = [positions.tail.new_zeros(0, 2)]
    teacher = head.teacher
    for first in range(0, len(hidden), num_rows):
        rows = slice(first, first + num_rows)
        logits = hidden[rows] @ head.weight.T
        answers = None if teacher is None else teacher.states[rows].to(hidden.dtype) @ teacher.weight.T
        values.append(
            _replace_by_gradient(
                logits, head=head, positions=positions.rows(rows), teacher_logits=answers, grad_bias=grad_bias
            )
        )
        if grad_hidden is not None:
            torch.mm(logits, head.weight, out=grad_hidden[rows])
        if grad_weight is not None:
            _add_product(grad_weight, logits, hidden[rows], is_first=first == 0)
    return torch.cat(values), [grad_hidden, grad_weight, grad_bias]


def _add_product(total: Tensor, logits: Tensor, hidden: Tensor, *, is_first: bool) -> None:
    """total [V, D] += logitsᵀ [V, m] · hidden [m, D], or = if `is_first`.

    Chunks are added up in float32, since bfloat16 would round each time. On a CPU a piece of the product becomes
    float32 while it is in the cache: the whole of it, before and after, would be more than `total` itself.
    """
    step = _PIECE_ROWS if total.device.type == "cpu" else len(total)
    for first in range(0, len(total), step):
        rows = slice(first, first + step)
        product = logits[:, rows].T @ hidden
        if is_first:
            total[rows] = product
        else:
            total[rows] += product


def _replace_by_gradient(
    logits: Tensor, *, head: _Head, positions: _Positions, teacher_logits: Tensor | None, grad_bias: Tensor | None
) -> Tensor:
    """Overwrite logits [m, V] by the gradient of the scaled losses, and return values [m, 2]; `grad_bias` is added to.

    The value of sparse targets lacks the constant Σ t·log t.
    """
    (num_rows, vocab_size), dtype = logits.shape, positions.tail.dtype
    block = num_rows
    if logits.device.type == "cpu":
        block = min(num_rows, max(1, _CACHE_BYTES // (dtype.itemsize * vocab_size)))
    buffers = [logits.new_zeros(block, vocab_size + 1, dtype=dtype) for _ in range(1 if head.temperature == 1.0 else 2)]
    values = logits.new_empty(num_rows, 2, dtype=dtype)
    for first in range(0, num_rows, block):
        rows = slice(first, min(first + block, num_rows))
        wide, scaled = (buffer[: rows.stop - first] for buffer in (buffers[0], buffers[-1]))
        z = wide[:, :-1].copy_(logits[rows])
        if head.bias is not None:
            z.add_(head.bias)
        wide[:, -1:] = 0.0
        dense = None if teacher_logits is None else _teacher_probs(teacher_logits[rows], head, vocab_size)
        values[rows] = _block_gradient(
            wide, scaled=scaled, dense=dense, positions=positions.rows(rows), temperature=head.temperature
        )
        logits[rows] = z
        if grad_bias is not None:
            grad_bias.add_(z.sum(0))
    return values


def _teacher_probs(teacher_logits: Tensor, head: _Head, vocab_size: int) -> Tensor:
    assert head.teacher is not None
    logits, bias = widen(teacher_logits), head.teacher.bias
    return dense_probs(
        logits if bias is None else logits + widen(bias),
        temperature=head.temperature,
        vocab_size=vocab_size,
        student_ids=head.teacher.student_ids,
    )


def _block_gradient(
    wide: Tensor, *, scaled: Tensor, dense: Tensor | None, positions: _Positions, temperature: float
) -> Tensor:
    """Overwrite z and the spare column, `wide` [n, V+1], by the gradient of the losses, and return values [n, 2].

    `scaled` is the place for z/T, `wide` itself at T = 1; `dense` [n, V] are targets besides those in `positions`, and
    is overwritten.
    """
    label_logit = wide.gather(-1, positions.label)
    if temperature != 1.0:
        torch.div(wide, temperature, out=scaled)
    kept_logits = scaled.gather(-1, positions.kept)
    divergence = 0.0 if dense is None else (torch.xlogy(dense, dense) - dense * scaled[:, :-1]).sum(-1, keepdim=True)
    if temperature == 1.0:
        log_z, log_tail = _softmax_gradient(wide, positions)
        log_z_scaled = log_z
    else:
        log_z_scaled, log_tail = _softmax_gradient(scaled, positions.soft_targets_only())
        log_z, _ = _softmax_gradient(wide, positions.masked_lm_only())
        wide.add_(scaled)
    if dense is None:
        soft = (positions.probs * (log_z_scaled - kept_logits)).sum(-1, keepdim=True) - positions.tail * log_tail
    else:
        soft = divergence + log_z_scaled
        wide[:, :-1].sub_(dense.mul_(positions.soft_scale))
    return torch.cat([log_z - label_logit, soft], dim=-1)


def _softmax_gradient(wide: Tensor, positions: _Positions) -> tuple[Tensor, Tensor]:
    """Overwrite z [n, V] and a spare column by the gradient of the losses; return log Z [n, 1] and log(1−s) [n, 1].

    With E the exponentials and the two scales c: c_lm·(p − 1_label) + c_soft·(mass·p − t − tail·share), where share is
    E over its own sum in the tail and 0 at kept ids. That sum is taken with the kept entries blanked out, not as a
    difference, so that it is right when nearly all mass is on kept ids.
    """
    z, kept = wide[:, :-1], positions.kept
    peak = z.amax(-1, keepdim=True)
    z.sub_(peak).exp_()
    wide[:, -1:] = 0.0
    kept_mass = wide.gather(-1, kept)
    wide.scatter_(-1, kept, 0.0)
    rest = z.sum(-1, keepdim=True).clamp_min(_FLOOR)
    total = rest + kept_mass.sum(-1, keepdim=True)
    factor = (positions.lm_scale + positions.soft_scale * positions.mass) / total
    z.mul_(factor - positions.soft_scale * positions.tail / rest)
    wide.scatter_(-1, kept, kept_mass * factor - positions.soft_scale * positions.probs)
    wide.scatter_add_(-1, positions.label, -positions.lm_scale)
    return peak + total.log(), rest.log() - total.log()
