"""Shares of languages: proportional to n^alpha below the cap, never beyond it while others can give more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.corpus.sampling import language_shares

counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**9), min_size=1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_without_the_cap_shares_are_powers(alpha: float) -> None:
    shares = language_shares({"en": 8000, "sw": 1000}, alpha=alpha, max_epochs=1e9, total_tokens=9000)
    assert shares["en"] / shares["sw"] == pytest.approx(8**alpha)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_by_hand_with_one_language_at_its_cap() -> None:
    # uniform shares would read c 3.3 times; at 2 epochs it has 0.2, and a and b divide what is left
    shares = language_shares({"a": 1000, "b": 1000, "c": 100}, alpha=0.0, max_epochs=2.0, total_tokens=1000)
    assert shares == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.2})


def test_when_nothing_suffices_all_are_read_equally_often() -> None:
    shares = language_shares({"a": 300, "b": 100}, alpha=0.3, max_epochs=2.0, total_tokens=8000)
    assert shares == pytest.approx({"a": 0.75, "b": 0.25})


@settings(max_examples=60, deadline=None)
@given(tokens=counts, alpha=st.floats(0.0, 1.0), max_epochs=st.floats(0.1, 100.0), total_tokens=st.integers(1, 10**11))
def test_shares_are_water_filling(tokens: dict[str, int], alpha: float, max_epochs: float, total_tokens: int) -> None:
    shares = language_shares(tokens, alpha=alpha, max_epochs=max_epochs, total_tokens=total_tokens)
    assert list(shares) == list(tokens)
    assert sum(shares.values()) == pytest.approx(1.0)
    caps = {language: max_epochs * count / total_tokens for language, count in tokens.items()}
    if sum(caps.values()) > 1.0 + 1e-9:
        # what every language would get per n^alpha: the same level for all that are below their cap, less for the rest
        level = max(shares[language] / count**alpha for language, count in tokens.items())
        for language, count in tokens.items():
            assert shares[language] == pytest.approx(min(caps[language], level * count**alpha), rel=1e-6)
