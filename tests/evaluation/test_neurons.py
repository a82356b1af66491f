"""Correlations of neurons beside scipy's, and neurons that never vary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from orchestrator.evaluation.neurons import Neurons, neuron_correlation


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    return neuron_correlation(Neurons.of(left), Neurons.of(right))


def test_the_mean_of_the_correlations_of_scipy() -> None:
    random = np.random.default_rng(0)
    left = random.normal(size=(25, 6)).astype(np.float32)
    right = (left + random.normal(size=(25, 6))).astype(np.float32)
    expected = np.mean([pearsonr(left[:, d], right[:, d]).statistic for d in range(6)])
    assert correlation(left, right) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100.0), st.floats(-50, 50))
def test_scale_shift_and_a_common_order_change_nothing(seed: int, scale: float, shift: float) -> None:
    random = np.random.default_rng(seed)
    left, right, order = random.normal(size=(20, 5)), random.normal(size=(20, 5)), random.permutation(20)
    expected = correlation(left, right)
    assert -1 <= expected <= 1
    assert correlation(left[order] * scale + shift, right[order]) == pytest.approx(expected, abs=1e-6)
    assert correlation(left, -right) == pytest.approx(-expected, abs=1e-9)
    reordered = neuron_correlation(Neurons.of(left), Neurons.of(right).reordered(order))
    assert reordered == pytest.approx(correlation(left, right[order]), abs=1e-9)


def test_it_sees_a_rotation() -> None:
    random = np.random.default_rng(1)
    states = random.normal(size=(200, 30))
    rotation, _ = np.linalg.qr(random.normal(size=(30, 30)))
    assert correlation(states, states) == pytest.approx(1.0)
    assert abs(correlation(states, states @ rotation)) < 0.4


def test_constant_neurons_are_left_out() -> None:
    random = np.random.default_rng(2)
    left, right = random.normal(size=(15, 4)), random.normal(size=(15, 4))
    expected = correlation(left[:, 2:], right[:, 2:])
    left[:, 0], right[:, 1] = 0.0, 7.0
    left[:, 0] += 1e3 + 1e-5 * random.normal(size=15)  # nothing but rounding
    assert correlation(left, right) == pytest.approx(expected)
    assert np.isnan(correlation(np.ones((15, 4)), right))
