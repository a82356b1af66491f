"""Ids of a store's text are counted as they were before masking."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.signals.counting import token_counts
from tests.signals.samples import full_store, make_tables, units


def test_masked_tokens_count_under_their_true_id(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    expected = np.zeros(1000, np.int64)
    for unit in units()[2:]:
        tables = make_tables(unit)
        ids = tables["tokens"]["input_id"].copy()
        ids[tables["masked"]["token"]] = tables["masked"]["label_id"]
        for one in ids:
            expected[one] += 1
    assert np.array_equal(token_counts(store, ["en"], size=1000), expected)
    both = token_counts(store, ["en", "de"], size=1000)
    assert both.sum() == sum(counts.tokens for counts in store.counts().values())
