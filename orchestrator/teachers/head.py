"""The teacher's distribution at masked positions: k largest logits and log-partitions, over the whole vocabulary.

Shape legend: P positions, V vocabulary, C columns of one chunk of it, K kept ids, D' width of the decoder's input,
G members and n number of groups of columns.
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


@dataclass(frozen=True)
class Distribution:
    """What is kept of P distributions."""

    ids: Tensor  # int64 [P, K], most probable first
    logits: Tensor  # float32 [P, K]
    log_partitions: dict[float, Tensor]  # temperature -> float32 [P], log Σ exp(z / T) over the whole vocabulary


def distribution(
    states: Tensor, weight: Tensor, bias: Tensor | None, *, k: int, temperatures: Sequence[float]
) -> Distribution:
    """Logits of `states`, chunk by chunk over the vocabulary, reduced at once.

    Logits come in the dtype of the weights, as the model itself would give them; all that follows is float32.

    Args:
        states: [P, D'], what the decoder reads.
        weight: [V, D'].
        bias: [V] or None.
        k: kept ids, at most V.
        temperatures: those whose log-partition is wanted.
    """
    chunk = ceil(len(weight) / ceil(len(weight) / COLUMNS))
    ids, logits = [], []
    partitions: dict[float, Tensor] = {}
    for first in range(0, len(weight), chunk):
        columns = slice(first, first + chunk)
        z = F.linear(states, weight[columns], None if bias is None else bias[columns])
        blocks = torch.split(z, len(z) if z.is_cuda else _BLOCK_ROWS)
        found = [_reduce(rows, min(k, z.shape[1]), temperatures) for rows in blocks]
        ids.append(torch.cat([part.ids for part in found]) + first)
        logits.append(torch.cat([part.logits for part in found]))
        for temperature in temperatures:
            part = torch.cat([part.log_partitions[temperature] for part in found])
            before = partitions.get(temperature)
            partitions[temperature] = part if before is None else torch.logaddexp(before, part)
    candidates = torch.cat(logits, dim=1)
    best, order = candidates.sort(dim=1, descending=True, stable=True)
    return Distribution(torch.cat(ids, dim=1).gather(1, order[:, :k]), best[:, :k].contiguous(), partitions)


def _reduce(z: Tensor, k: int, temperatures: Sequence[float]) -> Distribution:
    """The same of given logits `z` [P, C], with ids in no order; exp2 is several times as fast as exp on a CPU."""
    ids = top_ids(z, k)
    logits = z.gather(1, ids).float()
    largest = logits.amax(dim=1, keepdim=True)
    partitions = {}
    for t in temperatures:
        powers = z.to(torch.float32, copy=True).sub_(largest).mul_(log2(e) / t).exp2_()
        partitions[t] = powers.sum(dim=1).log_() + largest[:, 0] / t
    return Distribution(ids, logits, partitions)


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
    array = values.float().numpy()
    largest: Int64 = np.argpartition(array, array.shape[1] - k, axis=1)[:, -k:]
    return torch.from_numpy(largest)
