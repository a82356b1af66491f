"""Random numbers of a position in a row, as hashes of what names it: (seed, row id, copy, position).

Shape legend: R rows, P positions, n numbers of each position.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.records import Int16, Int64

UInt64: TypeAlias = npt.NDArray[np.uint64]
Float64: TypeAlias = npt.NDArray[np.float64]

#: Independent random numbers per position: which words are masked, how a token is replaced and by which, and what is
#: drawn from a teacher there.
CHOICE, REPLACEMENT, OTHER_TOKEN, DRAWS = range(4)

_LANES = 4
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def row_keys(seed: int, row_id: Int64, copy: Int16) -> UInt64:
    """A key [R] for each copy of each row."""
    key = _mixed(np.array([seed & (1 << 64) - 1], np.uint64))
    key = _mixed(key + (row_id.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return _mixed(key + (copy.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def random_bits(row_key: UInt64, position: Int64, lane: int) -> UInt64:
    """64 uniform bits for every position: output number (4 · position + lane) of the row's own SplitMix64 generator."""
    return _mixed(row_key + (position.astype(np.uint64) * np.uint64(_LANES) + np.uint64(lane + 1)) * _GOLDEN)


def uniform(keys: UInt64, count: int) -> Float64:
    """`count` independent numbers in [0, 1) from each of the keys [P]: float64 [P, n]."""
    bits = _mixed(keys[:, None] + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(state: UInt64) -> UInt64:
    """The output function of SplitMix64 (Steele, Lea & Flood 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
