"""Paired differences and their intervals: by hand, against scipy's bootstrap, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.records import MetricRow
from orchestrator.sweep.comparing import _chosen, paired_difference

Table = dict[int, dict[str, float]]


def table(values: list[list[float]]) -> Table:
    return {seed: {f"l{unit}": value for unit, value in enumerate(row)} for seed, row in enumerate(values)}


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    own, reference = table([[0.5, 0.7], [0.6, 0.9]]), table([[0.4, 0.6], [0.5, 0.8]])
    found = paired_difference(own, reference)
    assert found is not None
    assert found.pairs == 4
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.is_clear


def test_only_what_both_have_is_paired() -> None:
    own = {1: {"en": 1.0, "de": 5.0}, 2: {"en": 3.0, "de": 9.0}, 3: {"en": 100.0}}
    reference = {1: {"en": 0.0}, 2: {"en": 1.0}, 4: {"en": 0.0}}
    found = paired_difference(own, reference)
    assert found is not None
    assert (found.value, found.pairs) == (1.5, 2)
    assert (found.low, found.high) == (1.0, 2.0)  # both seeds, one of them twice in a quarter of the draws each


def test_one_pair_has_no_interval_and_none_has_no_difference() -> None:
    one = paired_difference({1: {"en": 2.0}}, {1: {"en": 1.0}})
    assert one is not None
    assert (one.value, one.low, one.high, one.is_clear) == (1.0, None, None, False)
    assert paired_difference({1: {"en": 2.0}}, {2: {"en": 1.0}}) is None
    assert paired_difference({1: {"en": 2.0}}, {1: {"de": 1.0}}) is None
    assert paired_difference({}, {}) is None


def test_one_seed_is_the_ordinary_bootstrap_over_languages() -> None:
    scipy = pytest.importorskip("scipy.stats")
    gaps = np.random.default_rng(3).normal(0.2, 1.0, size=12)
    found = paired_difference(table([list(gaps)]), table([[0.0] * 12]))
    assert found is not None
    expected = scipy.bootstrap((gaps,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.04)


@pytest.mark.parametrize(
    ("seeds", "languages", "rate"), [(2, 1, 0.49), (3, 1, 0.25), (5, 1, 0.15), (10, 1, 0.09), (3, 4, 0.02)]
)
def test_how_often_cells_that_differ_in_nothing_have_a_star(seeds: int, languages: int, rate: float) -> None:
    """The rates of docs/sweeps.md: far more than one in twenty with few seeds in one language."""
    random, of = np.random.default_rng(1), 300
    nothing = table([[0.0] * languages] * seeds)
    found = [paired_difference(table(random.normal(size=(seeds, languages)).tolist()), nothing) for _ in range(of)]
    assert np.mean([one is not None and one.is_clear for one in found]) == pytest.approx(rate, abs=0.06)


def test_seeds_that_disagree_make_the_interval_wider_than_units_alone_would() -> None:
    """Eight units of a seed that move together are one observation of that seed, not eight."""
    own = table([[0.0] * 8, [1.0] * 8])
    found = paired_difference(own, table([[0.0] * 8] * 2))
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=2, max_size=4),
    st.floats(-1, 1),
)
def test_swapping_the_sides_mirrors_the_difference_and_a_common_shift_leaves_it(
    gaps: list[list[float]], shift: float
) -> None:
    zero = table([[0.0] * 3] * len(gaps))
    there, back = paired_difference(table(gaps), zero), paired_difference(zero, table(gaps))
    moved = paired_difference(table((np.array(gaps) + shift).tolist()), table([[shift] * 3] * len(gaps)))
    assert there is not None
    assert back is not None
    assert moved is not None
    assert there.low is not None
    assert there.high is not None
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-9)
    assert (moved.value, moved.low, moved.high) == pytest.approx((there.value, there.low, there.high), abs=1e-9)
    assert there.low - 1e-9 <= there.value <= there.high + 1e-9


def test_of_pairs_the_last_layer_is_compared() -> None:
    def row(metric: str, pair: str, split: str, layer: int | None) -> MetricRow:
        language, other = pair.split("-")
        return MetricRow("m", "student", language, metric, 0.5, 9, 1, split, other_language=other, layer=layer)

    rows = [
        row(metric, pair, split, layer)
        for metric, split in (
            ("retrieval_csls", "parallel:news"),
            ("cka", "parallel:news"),
            ("cka_shuffled", "parallel:news"),
            ("neuron_correlation", "parallel:bible"),
            ("head_swap_accuracy", "probe:topic"),
        )
        for pair, depth in (("en-de", 4), ("en-fi", 2), ("en-en", 4))
        for layer in range(depth + 1)
    ]
    rows.append(row("head_swap_chance", "en-de", "probe:topic", None))
    assert [(measure, unit, found.layer) for measure, unit, found in _chosen(rows)] == [
        (measure, f"{source} en→{other}", layer)
        for measure, source in (
            ("retrieval", "news"),
            ("cka", "news"),
            ("neuron_correlation", "bible"),
            ("head_swap", "topic"),
        )
        for other, layer in (("de", 4), ("fi", 2))
    ]
