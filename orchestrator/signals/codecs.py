"""Hidden states as they are stored: float16 as it is, or int8 with one float16 scale per block of 64 values.

N tokens, D width, S = ⌈D/64⌉ blocks. Where 64 does not divide D the last block is shorter; nothing is padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.errors import StoreError
from orchestrator.records import Array, HiddenCodec

BLOCK = 64

Float16: TypeAlias = npt.NDArray[np.float16]
Float32: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.floating]

_LARGEST = np.float32(127.0)
_ROWS_AT_ONCE = 512  # what fits the cache, twice as fast as the whole table at once


def num_blocks(width: int) -> int:
    """Scales of one token: S."""
    return -(-width // BLOCK)


def encode_hidden(values: Floats, codec: HiddenCodec) -> dict[str, Array]:
    """The columns of a hidden table from `values` [N, D], float32 or float16.

    `fp16`: {"values": float16 [N, D]}. `int8`: {"values": int8 [N, D], "scales": float16 [N, S]} with
    scale ≥ max|block| / 127, so that no value is clipped and |value − decoded| ≤ scale / 2.
    Raises StoreError for NaN, infinity and what is too large for the codec (65 504, or 8.3 million with int8).
    """
    return {"values": _to_float16(values)} if codec == "fp16" else _to_int8(values)


def decode_hidden(columns: Mapping[str, Array], codec: HiddenCodec) -> Float32:
    """float32 [N, D] from the columns of a hidden table, or from the same rows of each of them."""
    values = columns["values"].astype(np.float32)
    if codec == "int8":
        values *= _per_value(columns["scales"].astype(np.float32), values.shape[1])
    return values


def _to_float16(values: Floats) -> Float16:
    with np.errstate(over="ignore"):  # what overflows is infinite afterwards, and refused
        halves = np.ascontiguousarray(values, np.float16)
    _refuse(~np.isfinite(halves), limit="65 504")
    return halves


def _to_int8(values: Floats) -> dict[str, Array]:
    num_rows, width = values.shape
    codes = np.empty((num_rows, width), np.int8)
    scales = np.empty((num_rows, num_blocks(width)), np.float16)
    for first in range(0, num_rows, _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        chunk = values[rows].astype(np.float32, copy=False)
        scales[rows] = scale = _block_scales(chunk)
        _refuse(~np.isfinite(scale), limit="8.3 million", first_row=first)
        with np.errstate(divide="ignore"):
            inverse = np.where(scale > 0, 1 / scale.astype(np.float32), np.float32(0))
        codes[rows] = np.rint(chunk * _per_value(inverse, width))
    return {"values": codes, "scales": scales}


def _block_scales(chunk: Float32) -> Float16:
    """float16 [n, S], each rounded up where rounding down would push the block's largest value past 127."""
    largest = np.maximum.reduceat(np.abs(chunk), np.arange(0, chunk.shape[1], BLOCK), axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        scale = (largest / _LARGEST).astype(np.float16)
        too_small = scale.astype(np.float32) * _LARGEST < largest
        return np.where(too_small, np.nextafter(scale, np.float16(np.inf)), scale)


def _per_value(per_block: Float32, width: int) -> Float32:
    return np.repeat(per_block, BLOCK, axis=1)[:, :width]


def _refuse(bad: npt.NDArray[np.bool_], *, limit: str, first_row: int = 0) -> None:
    if bad.any():
        token = first_row + int(bad.any(axis=1).argmax())
        raise StoreError(
            f"the hidden state of token {token} holds a value that is not finite or above {limit}, the most that"
            " signals.hidden_codec can hold; run this teacher with dtype float32, or choose the codec int8"
        )
