"""Rows of a unit as padded batches of like length, each knowing where its tokens come from.

Shape legend: B rows and L tokens of a batch, n its tokens without padding, m its masked positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.records import Int32, Int64, MaskedRows


@dataclass(frozen=True)
class PaddedBatch:
    """One forward pass. Positions index the flattened [B·L] tokens."""

    input_ids: Tensor  # int64 [B, L], padded on the right
    attention_mask: Tensor  # bool [B, L]
    tokens: Int64  # [n] rows of the unit's token table, in the order of the batch
    token_positions: Tensor  # int64 [n]
    masked: Int64  # [m] rows of the unit's table of masked positions
    masked_positions: Tensor  # int64 [m]


def group_by_length(num_tokens: Int32, *, tokens_per_batch: int) -> Iterator[Int64]:
    """Indices of the rows of each batch: longest rows first, equal ones in their order, so a pure function of lengths.

    A batch has at most `tokens_per_batch` tokens, padding included, but always at least one row.
    """
    order = np.argsort(-num_tokens, kind="stable")
    first = 0
    while first < len(order):
        size = max(1, tokens_per_batch // int(num_tokens[order[first]]))
        yield order[first : first + size]
        first += size


def pad_rows(rows: MaskedRows, chosen: Int64, *, pad_id: int) -> PaddedBatch:
    """The rows with indices `chosen` as one batch, padded to the longest of them."""
    lengths = rows.num_tokens[chosen]
    width = int(lengths.max())
    inside = np.arange(width) < lengths[:, None]
    tokens = _ranges(rows.first_token[chosen], lengths)
    input_ids = np.full(inside.shape, pad_id, np.int64)
    input_ids[inside] = rows.input_id[tokens]
    counts = rows.num_masked[chosen]
    masked = _ranges(rows.first_masked[chosen], counts)
    row_start = np.arange(len(chosen)) * width - rows.first_token[chosen]
    return PaddedBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(inside),
        tokens=tokens,
        token_positions=torch.from_numpy(np.flatnonzero(inside)),
        masked=masked,
        masked_positions=torch.from_numpy(rows.masked_token[masked] + np.repeat(row_start, counts)),
    )


def _ranges(first: Int64, counts: Int32) -> Int64:
    """first[0], first[0] + 1, …, then first[1], …: `counts[i]` numbers from each `first[i]`."""
    ends = np.cumsum(counts, dtype=np.int64)
    numbers: Int64 = np.arange(ends[-1]) + np.repeat(first - (ends - counts), counts)
    return numbers
