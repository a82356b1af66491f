"""Retrieval by hand, beside scikit-learn's neighbours, and CSLS beside a loop that follows the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from orchestrator.evaluation.retrieval import retrieve


def pairs(seed: int, n: int = 40, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    left = random.normal(size=(n, 12)).astype(np.float32)
    return left, (left + noise * random.normal(size=(n, 12))).astype(np.float32)


def test_by_hand() -> None:
    left = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    right = np.array([[2, 0], [1, 0.1], [3, 3]], np.float32)
    found = retrieve(left, right, neighbours=1)
    assert found.cosine_forward == pytest.approx(2 / 3)  # the second finds the third
    assert found.cosine_backward == pytest.approx(2 / 3)  # the second finds the first


def test_nearest_neighbours_of_scikit_learn() -> None:
    left, right = pairs(5)
    index = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(right)
    nearest = index.kneighbors(left, return_distance=False)[:, 0]
    assert retrieve(left, right).cosine_forward == pytest.approx((nearest == np.arange(40)).mean())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 15))
def test_csls_as_the_paper_writes_it(seed: int, neighbours: int) -> None:
    left, right = pairs(seed, n=14, noise=1.5)
    similarity = cosine_similarity(left.astype(np.float64), right.astype(np.float64))

    def mean_of_nearest(row: np.ndarray) -> float:
        return float(np.mean(sorted(row, reverse=True)[:neighbours]))

    forward = backward = 0
    for i in range(14):
        scores = [
            2 * similarity[i, j] - mean_of_nearest(similarity[i]) - mean_of_nearest(similarity[:, j]) for j in range(14)
        ]
        forward += int(np.argmax(scores)) == i
        scores = [
            2 * similarity[j, i] - mean_of_nearest(similarity[j]) - mean_of_nearest(similarity[:, i]) for j in range(14)
        ]
        backward += int(np.argmax(scores)) == i
    found = retrieve(left, right, neighbours=neighbours)
    assert (found.csls_forward, found.csls_backward) == pytest.approx((forward / 14, backward / 14))


def test_turning_the_sides_round_turns_the_directions_round() -> None:
    left, right = pairs(8)
    there, back = retrieve(left, right), retrieve(right, left)
    assert (there.cosine_forward, there.csls_forward) == (back.cosine_backward, back.csls_backward)


def test_csls_mends_a_hub() -> None:
    """One candidate that is near every query wins by cosine everywhere and by CSLS nowhere but at its own."""
    random = np.random.default_rng(0)
    common = np.zeros(32)
    common[0] = 3.0
    left = common + random.normal(size=(50, 32))
    right = left + 1.8 * random.normal(size=(50, 32))
    right[0] = common
    found = retrieve(left.astype(np.float32), right.astype(np.float32))
    assert found.csls_forward > found.cosine_forward + 0.1


def test_a_vector_of_zeros_is_no_division() -> None:
    left, right = pairs(1)
    left[3] = 0.0
    assert retrieve(left, right).cosine_forward <= 39 / 40
