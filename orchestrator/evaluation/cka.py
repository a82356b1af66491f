"""Centred kernel alignment: how alike two sets of representations of the same items are, up to rotation and scale.

Shape legend: n items (translated sentences), D and E widths of the two sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Kernel:
    """Inner products of n items with each other, the diagonal 0: what one side brings, made once for many comparisons.

    Items are centred before; the estimator does not see that, but loses fewer digits.
    """

    products: npt.NDArray[np.float64]  # [n, n]
    sums: npt.NDArray[np.float64]  # [n]

    @classmethod
    def of(cls, vectors: Floats) -> Kernel:
        """The linear kernel of [n, D], n ≥ 4."""
        assert len(vectors) >= 4, "the estimator divides by n - 3"
        vectors = np.asarray(vectors, np.float64)
        centred = vectors - vectors.mean(axis=0)
        products = centred @ centred.T
        np.fill_diagonal(products, 0.0)
        return cls(products, products.sum(axis=0))

    def reordered(self, order: npt.NDArray[np.int64]) -> Kernel:
        """The kernel of the same items in another order."""
        return Kernel(self.products[np.ix_(order, order)], self.sums[order])

    @cached_property
    def own(self) -> float:
        """HSIC of the side with itself."""
        return unbiased_hsic(self, self)


def unbiased_hsic(left: Kernel, right: Kernel) -> float:
    """The unbiased estimator HSIC₁ (Song et al. 2012, equation 5).

    Expected to be 0 for unrelated items at any n, where the plain estimator is well above 0 when n is near D.
    """
    n = len(left.sums)
    trace = np.einsum("ij,ij->", left.products, right.products)
    totals = left.sums.sum() * right.sums.sum() / ((n - 1) * (n - 2))
    return float((trace + totals - 2.0 / (n - 2) * (left.sums @ right.sums)) / (n * (n - 3)))


def linear_cka(left: Kernel, right: Kernel) -> float:
    """Linear CKA (Kornblith et al. 2019) with the unbiased HSIC; item i of one side is item i of the other.

    1 for representations that differ by rotation and scale, about 0 for unrelated ones (it can fall just below).
    NaN when one side does not vary.
    """
    own = left.own * right.own
    return unbiased_hsic(left, right) / float(np.sqrt(own)) if own > 0 else float("nan")
