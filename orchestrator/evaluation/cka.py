"""Centred kernel alignment: how alike two sets of representations of the same items are, up to rotation and scale.

Shape legend: n items (translated sentences), D and E widths of the two sides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def unbiased_hsic(left: Floats, right: Floats) -> float:
    """The unbiased estimator HSIC₁ (Song et al. 2012, equation 5) of two kernel matrices [n, n], n ≥ 4.

    Expected to be 0 for unrelated items at any n, where the plain estimator is well above 0 when n is near D.
    """
    n = len(left)
    assert n >= 4, "the estimator divides by n - 3"
    left, right = np.array(left, np.float64), np.array(right, np.float64)
    np.fill_diagonal(left, 0.0)
    np.fill_diagonal(right, 0.0)
    sums_left, sums_right = left.sum(axis=0), right.sum(axis=0)
    trace = np.einsum("ij,ij->", left, right)
    totals = sums_left.sum() * sums_right.sum() / ((n - 1) * (n - 2))
    return float((trace + totals - 2.0 / (n - 2) * (sums_left @ sums_right)) / (n * (n - 3)))


def linear_cka(left: Floats, right: Floats) -> float:
    """Linear CKA (Kornblith et al. 2019) with the unbiased HSIC, of [n, D] and [n, E] whose rows are the same items.

    1 for representations that differ by rotation and scale, about 0 for unrelated ones (it can fall just below).
    NaN when one side does not vary.
    """
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    kernel_left, kernel_right = left @ left.T, right @ right.T
    own = unbiased_hsic(kernel_left, kernel_left) * unbiased_hsic(kernel_right, kernel_right)
    return unbiased_hsic(kernel_left, kernel_right) / float(np.sqrt(own)) if own > 0 else float("nan")
