"""Drawn ids through the codec and back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.signals import decode_draws, encode_draws, first_drawn


@given(st.data())
def test_every_draw_comes_back(data: st.DataObject) -> None:
    vocab_size, draws = data.draw(st.sampled_from([(10, 4), (250_002, 3), (300_000, 60), (5, 300)]))
    one = st.lists(st.integers(0, vocab_size - 1) | st.just(vocab_size - 1), min_size=draws, max_size=draws)
    rows = data.draw(st.lists(one, max_size=6))
    ids = np.array(rows, np.int32).reshape(-1, draws)
    distinct, code = encode_draws(ids, vocab_size=vocab_size)
    assert code.shape == (sum(len(set(row)) for row in rows), 3 if vocab_size * draws <= 1 << 24 else 4)
    found, counts = decode_draws(distinct, code, draws=draws)
    for row, values, numbers in zip(rows, found.tolist(), counts.tolist(), strict=True):
        assert {i: c for i, c in zip(values, numbers, strict=True) if i >= 0} == Counter(row)
        assert all((i < 0) == (c == 0) for i, c in zip(values, numbers, strict=True))


@pytest.mark.parametrize("draws", [1, 50, 255, 256])
def test_any_positions_can_be_decoded(draws: int) -> None:
    ids = np.random.default_rng(0).integers(0, 40, (30, draws), dtype=np.int32)
    distinct, code = encode_draws(ids, vocab_size=40)
    assert distinct.dtype == (np.uint8 if draws <= 255 else np.uint16)
    assert distinct.sum(dtype=int) == len(code)
    chosen = np.array([29, 3, 4, 3])
    first = first_drawn(distinct)[chosen]
    codes = np.concatenate([np.arange(a, a + d) for a, d in zip(first, distinct[chosen], strict=True)])
    some, whole = (decode_draws(*part, draws=draws) for part in ((distinct[chosen], code[codes]), (distinct, code)))
    for left, right in zip(some, whole, strict=True):
        assert np.array_equal(left, right[chosen][:, : left.shape[1]])


def test_no_positions() -> None:
    distinct, code = encode_draws(np.empty((0, 50), np.int32), vocab_size=100)
    ids, counts = decode_draws(distinct, code, draws=50)
    assert ids.shape == counts.shape == (0, 0)
