"""CKA beside a brute-force estimator over quadruples, and what it must not see: rotation, scale, order together."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.evaluation.cka import Kernel, unbiased_hsic
from orchestrator.evaluation.cka import linear_cka as cka_of_kernels


def linear_cka(left: np.ndarray, right: np.ndarray) -> float:
    return cka_of_kernels(Kernel.of(left), Kernel.of(right))


def brute_force_hsic(left: np.ndarray, right: np.ndarray) -> float:
    """The U-statistic itself: the mean of its kernel over all ordered quadruples (Song et al. 2012, equation 4)."""
    values = [
        left[i, j] * (right[i, j] + right[q, r] - 2 * right[i, q]) for i, j, q, r in permutations(range(len(left)), 4)
    ]
    return float(np.mean(values))


def test_the_estimator_is_the_mean_over_all_quadruples() -> None:
    random = np.random.default_rng(3)
    left, right = random.normal(size=(7, 4)), random.normal(size=(7, 6))
    expected = brute_force_hsic(left @ left.T, right @ right.T)
    assert unbiased_hsic(Kernel.of(left), Kernel.of(right)) == pytest.approx(expected, rel=1e-10)


def test_a_kernel_in_another_order_is_that_of_the_items_in_that_order() -> None:
    random = np.random.default_rng(0)
    vectors, order = random.normal(size=(9, 4)), random.permutation(9)
    found, expected = Kernel.of(vectors).reordered(order), Kernel.of(vectors[order])
    np.testing.assert_allclose(found.products, expected.products, atol=1e-12)
    np.testing.assert_allclose(found.sums, expected.sums, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100.0))
def test_rotation_scale_shift_and_a_common_order_change_nothing(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(30, 6)), random.normal(size=(30, 8))
    right[:, :6] += left
    rotation, _ = np.linalg.qr(random.normal(size=(8, 8)))
    order = random.permutation(30)
    expected = linear_cka(left, right)
    assert linear_cka(left[order] + 5.0, (scale * right @ rotation)[order]) == pytest.approx(expected, abs=1e-6)
    assert linear_cka(right, left) == pytest.approx(expected, abs=1e-9)


def test_one_for_itself_and_none_for_strangers() -> None:
    random = np.random.default_rng(1)
    states = random.normal(size=(60, 200))
    assert linear_cka(states, states) == pytest.approx(1.0)
    strangers = [linear_cka(random.normal(size=(60, 200)), random.normal(size=(60, 200))) for _ in range(40)]
    assert abs(np.mean(strangers)) < 0.02  # the plain estimator gives about 0.77 here


def test_a_side_that_does_not_vary_has_no_cka() -> None:
    assert np.isnan(linear_cka(np.ones((10, 3)), np.random.default_rng(0).normal(size=(10, 3))))
