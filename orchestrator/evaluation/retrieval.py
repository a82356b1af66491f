"""Finding a sentence's translation among n candidates by the nearest vector, in both directions.

Shape legend: n pairs of sentences, D width. Row i of one side is the translation of row i of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

#: Neighbours whose mean similarity CSLS subtracts (Conneau et al. 2018 use 10).
CSLS_NEIGHBOURS = 10


@dataclass(frozen=True)
class Retrieval:
    """Share of sentences whose translation came first, by measure and direction; chance is 1 / n."""

    cosine_forward: float
    cosine_backward: float
    csls_forward: float
    csls_backward: float


def retrieve(left: Float32, right: Float32, *, neighbours: int = CSLS_NEIGHBOURS) -> Retrieval:
    """Search `right` for each of `left` (forward) and the other way round (backward); both [n, D].

    Cosine: the largest cosine. CSLS (Conneau et al. 2018): 2·cos(x, y) − r(x) − r(y), where r is the mean cosine to
    the `neighbours` nearest of the other side, so that a sentence that is near everything no longer wins everywhere.
    """
    similarity = _unit(left) @ _unit(right).T
    near = min(neighbours, len(similarity))
    mean_left = _largest(similarity, near, axis=1).mean(axis=1, keepdims=True)
    mean_right = _largest(similarity, near, axis=0).mean(axis=0, keepdims=True)
    corrected = 2.0 * similarity - mean_left - mean_right
    return Retrieval(
        cosine_forward=_first(similarity, axis=1),
        cosine_backward=_first(similarity, axis=0),
        csls_forward=_first(corrected, axis=1),
        csls_backward=_first(corrected, axis=0),
    )


def _unit(vectors: Float32) -> Float32:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def _largest(similarity: Float32, count: int, *, axis: int) -> Float32:
    ordered = np.partition(similarity, -count, axis=axis)
    return np.moveaxis(np.moveaxis(ordered, axis, 0)[-count:], 0, axis)


def _first(similarity: Float32, *, axis: int) -> float:
    return float((similarity.argmax(axis=axis) == np.arange(len(similarity))).mean())
