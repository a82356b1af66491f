"""Ids drawn at random from a distribution, as they are stored: each distinct id once, with its count, in 3 bytes.

P positions, n draws at each of them, Q distinct ids of all positions, V vocabulary, K the most distinct ids of any
position. A code is id · n + (count − 1), little-endian, in 3 bytes when V · n ≤ 2^24 and 4 otherwise.
"""

from __future__ import annotations

import numpy as np

from orchestrator.records import Array, Int32, Int64
from orchestrator.signals.schema import code_bytes


def encode_draws(ids: Int32, *, vocab_size: int) -> tuple[Array, Array]:
    """Columns `distinct` [P] and `code` uint8 [Q, 3 or 4] from the drawn `ids` [P, n], whose order means nothing.

    The distinct ids of a position ascend.
    """
    positions, draws = ids.shape
    ordered = np.sort(ids, axis=1)
    begins = np.ones(ordered.shape, np.bool_)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    counts = np.diff(first, append=positions * draws)
    codes = ordered.reshape(-1)[first].astype(np.int64) * draws + (counts - 1)
    packed = codes.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : code_bytes(vocab_size, draws)]
    distinct = begins.sum(axis=1).astype(np.uint8 if draws <= 255 else np.uint16)
    return distinct, np.ascontiguousarray(packed)


def decode_draws(distinct: Array, code: Array, *, draws: int) -> tuple[Int64, Int64]:
    """Ids int64 [P, K], −1 where there is none, and how often each was drawn, int64 [P, K], 0 there.

    Takes any positions' rows of `distinct` [P] and, in the same order, their rows of `code` [Q, 3 or 4]; position p of
    a whole table owns the `distinct[p]` codes from `first_drawn(distinct)[p]`.
    """
    ids, counts = split_codes(code, draws=draws)
    lengths = distinct.astype(np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(ids)) - np.repeat(first_drawn(distinct), lengths)
    shape = (len(lengths), int(lengths.max(initial=0)))
    padded_ids, padded_counts = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    padded_ids[row, column], padded_counts[row, column] = ids, counts
    return padded_ids, padded_counts


def first_drawn(distinct: Array) -> Int64:
    """Where the codes of each position begin: int64 [P]."""
    ends = np.cumsum(distinct, dtype=np.int64)
    starts: Int64 = ends - distinct.astype(np.int64)
    return starts


def split_codes(code: Array, *, draws: int) -> tuple[Int64, Int64]:
    """Id and count of each code: int64 [Q] twice."""
    whole = np.zeros((len(code), 4), np.uint8)
    whole[:, : code.shape[1]] = code
    ids, counts = np.divmod(whole.view("<u4").reshape(-1).astype(np.int64), draws)
    return ids, counts + 1
