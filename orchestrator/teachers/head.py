"""The teacher's distribution at positions of text: the k largest logits, log-partitions and random draws of it.

Shape legend: P positions, V vocabulary, C columns of one chunk of it, K kept ids, n draws, D' width of the decoder's
input, G groups of columns and their members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, e, log2

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orchestrator.records import Int64

#: Columns of the vocabulary whose logits exist at one time, with `ROWS` positions; more leave the caches for nothing.
COLUMNS = 65_536
#: Positions per matrix product: fewer waste the product's speed.
ROWS = 256

_BLOCK_ROWS = 16  # of a chunk at a time on a CPU, so that what is made of them stays in the cache
_GROUP = 16
_DRAW_GROUP = 64  # near what makes searching for a group as long as searching in it


@dataclass(frozen=True)
class Distribution:
    """What is kept of P distributions."""

    ids: Tensor  # int64 [P, K], most probable first
    logits: Tensor  # float32 [P, K]
    log_partitions: dict[float, Tensor]  # temperature -> float32 [P], log Σ exp(z / T) over the whole vocabulary
    drawn: Tensor  # int64 [P, n], ids drawn with replacement at temperature 1


def distribution(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    k: int,
    temperatures: Sequence[float],
    uniforms: Tensor | None = None,
) -> Distribution:
    """Logits of `states`, chunk by chunk over the vocabulary, reduced at once.

    Logits come in the dtype of the weights, as the model itself would give them; all that follows is float32. What is
    drawn comes from softmax(z) over the whole vocabulary: in every chunk one id is drawn by the chunk's own
    distribution, then one of the chunks by their masses, each by a number of its own.

    Args:
        states: [P, D'], what the decoder reads.
        weight: [V, D'].
        bias: [V] or None.
        k: kept ids, at most V.
        temperatures: those whose log-partition is wanted besides 1.
        uniforms: float64 [P, n, 2] in [0, 1), two for each draw; None draws nothing.
    """
    chunk = ceil(len(weight) / ceil(len(weight) / COLUMNS))
    uniforms = states.new_empty(len(states), 0, 2, dtype=torch.float64) if uniforms is None else uniforms
    parts = []
    for first in range(0, len(weight), chunk):
        columns = slice(first, first + chunk)
        z = F.linear(states, weight[columns], None if bias is None else bias[columns])
        blocks = slices(len(z), len(z) if z.is_cuda else _BLOCK_ROWS)
        found = [_reduce(z[rows], min(k, z.shape[1]), temperatures, uniforms[rows, :, 1]) for rows in blocks]
        parts.append(_joined(found, first))
    candidates = torch.cat([part.logits for part in parts], dim=1)
    best, order = candidates.sort(dim=1, descending=True, stable=True)
    partitions = {t: torch.stack([part.log_partitions[t] for part in parts]) for t in (1.0, *temperatures)}
    return Distribution(
        torch.cat([part.ids for part in parts], dim=1).gather(1, order[:, :k]),
        best[:, :k].contiguous(),
        {t: values.logsumexp(dim=0) for t, values in partitions.items()},
        _choose_chunk([part.drawn for part in parts], partitions[1.0], uniforms[:, :, 0]),
    )


def slices(length: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size`."""
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]


def _reduce(z: Tensor, k: int, temperatures: Sequence[float], uniforms: Tensor) -> Distribution:
    """The same of given logits `z` [P, C], with ids in no order; exp2 is several times as fast as exp on a CPU."""
    z = z.float()  # first of all: maxima of bfloat16 take longer than this and maxima of float32
    ids = top_ids(z, k) if k else torch.empty(len(z), 0, dtype=torch.int64, device=z.device)
    logits = z.gather(1, ids)
    largest = (logits if k else z).amax(dim=1, keepdim=True)
    partitions, drawn = {}, None
    for t in (1.0, *temperatures):
        powers = torch.add(largest * (-log2(e) / t), z, alpha=log2(e) / t).exp2_()
        partitions[t] = powers.sum(dim=1).log_() + largest[:, 0] / t
        drawn = draw(powers, uniforms) if drawn is None else drawn  # the first temperature is 1
    assert drawn is not None
    return Distribution(ids, logits, partitions, drawn)


def _joined(blocks: Sequence[Distribution], first: int) -> Distribution:
    """Blocks of rows one below the other, with ids counted from `first`."""
    return Distribution(
        torch.cat([block.ids for block in blocks]) + first,
        torch.cat([block.logits for block in blocks]),
        {t: torch.cat([block.log_partitions[t] for block in blocks]) for t in blocks[0].log_partitions},
        torch.cat([block.drawn for block in blocks]) + first,
    )


def draw(masses: Tensor, uniforms: Tensor) -> Tensor:
    """Columns drawn in proportion to `masses` float32 [P, C] by `uniforms` float64 [P, n]: int64 [P, n].

    The inverse of the cumulated masses, first over groups of columns, then within the one that was found, so that few
    of them are cumulated. What has no mass is never drawn.
    """
    rows, columns = masses.shape
    draws = uniforms.shape[1]
    if not draws:
        return torch.empty(rows, 0, dtype=torch.int64, device=masses.device)
    whole = columns // _DRAW_GROUP * _DRAW_GROUP
    in_groups = torch.unflatten(masses[:, :whole], 1, (whole // _DRAW_GROUP, _DRAW_GROUP)).sum(dim=2)
    ends = torch.cat([in_groups, masses[:, whole:].sum(dim=1, keepdim=True)], dim=1).double().cumsum(dim=1)
    target = uniforms * ends[:, -1:]
    group = _first_beyond(ends, target)
    begins = torch.cat([ends.new_zeros(rows, 1), ends[:, :-1]], dim=1)
    members = group[:, :, None] * _DRAW_GROUP + torch.arange(_DRAW_GROUP, device=masses.device)
    inside = masses.gather(1, members.clamp_max(columns - 1).flatten(1)).view(members.shape)
    cumulated = inside.masked_fill_(members >= columns, 0.0).double().cumsum(dim=2)
    place = _first_beyond(cumulated, (target - begins.gather(1, group))[:, :, None])[:, :, 0]
    return group * _DRAW_GROUP + place


def _first_beyond(ends: Tensor, target: Tensor) -> Tensor:
    """Index of the first of the ascending `ends` [..., G] above each `target` [..., n]; of none beyond the last."""
    total = ends[..., -1:]
    below = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))  # rounding may have reached it
    return torch.searchsorted(ends, below, right=True).clamp_max_(ends.shape[-1] - 1)  # NaN is refused later


def _choose_chunk(drawn: Sequence[Tensor], log_masses: Tensor, uniforms: Tensor) -> Tensor:
    """Of the ids `drawn` [P, n] from every chunk the one whose chunk `uniforms` [P, n] find by mass [chunks, P]."""
    if len(drawn) == 1:
        return drawn[0]
    ends = log_masses.t().double().softmax(dim=1).cumsum(dim=1)
    chunk = _first_beyond(ends, uniforms * ends[:, -1:])
    return torch.stack(list(drawn), dim=2).gather(2, chunk[:, :, None])[:, :, 0]


def top_ids(z: Tensor, k: int) -> Tensor:
    """Columns of the k largest of each row of `z` [P, C], in no order: int64 [P, k].

    On a CPU `topk` takes half as long as the matrix product itself. The k largest of a row lie in the k groups of
    columns with the largest maxima (any other group has k values at least as large elsewhere), so only those are
    searched. A group is every n-th column, so that maxima are taken of whole vectors.
    """
    columns = z.shape[1]
    n = columns // _GROUP
    if z.is_cuda or n <= 2 * k:
        return z.topk(k, dim=1, sorted=False).indices
    grouped = n * _GROUP
    maxima = torch.unflatten(z[:, :grouped], 1, (_GROUP, n)).amax(dim=1)
    groups = _partition(maxima, k)
    members = (groups[:, :, None] + torch.arange(0, grouped, n)).flatten(1)
    rest = torch.arange(grouped, columns).expand(len(z), -1)
    candidates = torch.cat([members, rest], dim=1)
    return candidates.gather(1, _partition(z.gather(1, candidates), k))


def _partition(values: Tensor, k: int) -> Tensor:
    """Columns of the k largest of each row, in no order; numpy's vectorised partition, 4 times as fast as `topk`."""
    array = values.numpy()
    largest: Int64 = np.argpartition(array, array.shape[1] - k, axis=1)[:, -k:]
    return torch.from_numpy(largest)
