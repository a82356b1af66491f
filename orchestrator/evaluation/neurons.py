"""Neuron by neuron: whether the same coordinate says the same of a sentence and of its translation.

Shape legend: n pairs of sentences, D width. Row i of one side is the translation of row i of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: A neuron whose standard deviation is below this share of its largest value says nothing but rounding.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class Neurons:
    """One side with each neuron at mean 0 and standard deviation 1; one that does not vary is 0."""

    values: npt.NDArray[np.float64]  # [n, D]
    varies: npt.NDArray[np.bool_]  # [D]

    @classmethod
    def of(cls, vectors: npt.NDArray[np.floating]) -> Neurons:
        """From [n, D]."""
        vectors = np.asarray(vectors, np.float64)
        centred = vectors - vectors.mean(axis=0)
        spread = np.sqrt(np.square(centred).mean(axis=0))
        varies = spread > _LEAST_SPREAD * np.abs(vectors).max(axis=0)
        return cls(np.where(varies, centred / np.where(varies, spread, 1.0), 0.0), varies)

    def reordered(self, order: npt.NDArray[np.int64]) -> Neurons:
        """The same sentences in another order."""
        return Neurons(self.values[order], self.varies)


def neuron_correlation(left: Neurons, right: Neurons) -> float:
    """The mean over neurons d of Pearson's correlation between the two sides' neuron d over the n pairs.

    Neurons that are constant on one side have no correlation and are left out; NaN where none is left. Not blind to
    rotation, unlike CKA: it asks whether two models that began with the same coordinates still share them (correlated
    units: Li et al. 2016; in multilingual encoders: Conneau et al. 2020).
    """
    both = left.varies & right.varies
    if not both.any():
        return float("nan")
    return float(np.einsum("nd,nd->d", left.values, right.values)[both].mean() / len(left.values))
