"""The most probable ids of a position and their log-probabilities, as they are stored: 212 bytes for 64 of 250 002 ids.

P positions, K kept ids, most probable first, V vocabulary. The low 16 bits of the ids are one column and the rest,
in as few bits as V needs, another. A log-probability is one of 256 values between the largest and the smallest of its
position, a square apart: the steps are smallest where the mass is. One that is x nats below the largest is off by
√(x · span) / 255 at most, span being the smallest's distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.errors import StoreError
from orchestrator.records import Array, Int64
from orchestrator.signals.codecs import Float32, Floats
from orchestrator.signals.schema import high_bytes

Bytes: TypeAlias = npt.NDArray[np.uint8]

_LAST = 255


def encode_topk(ids: Int64, log_probs: Floats, *, vocab_size: int) -> dict[str, Array]:
    """The columns of a top-k table from `ids` [P, K] and `log_probs` [P, K], which do not ascend.

    ids_low uint16 [P, K], ids_high uint8 [P, ⌈K·h/8⌉] where V needs h bits more, top and span float16 [P], and below
    uint8 [P, K]: a log-probability is top − span · (below / 255)². Raises StoreError for values that are not finite.
    """
    exact = log_probs.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        top = exact[:, 0].astype(np.float16)
        wide = top.astype(np.float32)
        span = _not_below(wide - exact[:, -1])
    if not (np.isfinite(top).all() and np.isfinite(span).all()):
        raise StoreError("log-probabilities of the teacher are not finite; run this teacher with dtype float32")
    part = (wide[:, None] - exact).clip(min=0) / np.where(span, span.astype(np.float32), np.float32(1))[:, None]
    below = np.rint(np.sqrt(part) * np.float32(_LAST)).astype(np.uint8)
    columns = {"ids_low": (ids & 0xFFFF).astype(np.uint16), "top": top, "span": span, "below": below}
    if num_bytes := high_bytes(ids.shape[1], vocab_size):
        columns["ids_high"] = _pack((ids >> 16).astype(np.uint8), num_bytes)
    return columns


def decode_topk(columns: Mapping[str, Array], k: int | None = None) -> tuple[Int64, Float32]:
    """Ids int64 [P, k] and log-probabilities float32 [P, k], which do not ascend; all K where `k` is None."""
    ids = columns["ids_low"].astype(np.int64)
    if "ids_high" in columns:
        ids |= _unpack(columns["ids_high"].astype(np.uint8, copy=False), ids.shape[1]) << 16
    top, span = (columns[name].astype(np.float32)[:, None] for name in ("top", "span"))
    log_probs = columns["below"][:, :k].astype(np.float32)
    log_probs *= log_probs
    log_probs *= span / np.float32(-_LAST * _LAST)
    log_probs += top
    return ids[:, :k], log_probs


def _not_below(values: Float32) -> Array:
    """float16 that is not negative, rounded up: with a smaller span the last value would be out of reach."""
    halves = np.maximum(values, 0).astype(np.float16)
    return np.where(halves.astype(np.float32) < values, np.nextafter(halves, np.float16(np.inf)), halves)


def _pack(values: Bytes, num_bytes: int) -> Bytes:
    """uint8 [P, num_bytes] from uint8 [P, K], the first value of a byte in its lowest bits."""
    shifts = _shifts(values.shape[1], num_bytes)
    padded = np.pad(values, ((0, 0), (0, num_bytes * len(shifts) - values.shape[1])))
    packed: Bytes = np.bitwise_or.reduce(padded.reshape(len(values), num_bytes, len(shifts)) << shifts, axis=2)
    return packed


def _unpack(packed: Bytes, k: int) -> Int64:
    shifts = _shifts(k, packed.shape[1])
    values = (packed[:, :, None] >> shifts) & np.uint8((1 << 8 // len(shifts)) - 1)
    return values.reshape(len(packed), packed.shape[1] * len(shifts))[:, :k].astype(np.int64)


def _shifts(k: int, num_bytes: int) -> Bytes:
    """Where the values of a byte stand in it, if each of the `k` has as many bits as fit: 1, 2, 4 or 8."""
    bits = max(bits for bits in (1, 2, 4, 8) if k * bits <= 8 * num_bytes)
    return np.arange(0, 8, bits, dtype=np.uint8)
