"""Masked rows made by hand, for tests that need no corpus."""

from __future__ import annotations

import numpy as np

from orchestrator.records import MaskedRows, SpecialIds


def masked_rows(
    lengths: list[int], *, special: SpecialIds, vocab_size: int, share: float = 0.3, seed: int = 0
) -> MaskedRows:
    """Rows of the given lengths, [CLS] … [SEP], random ordinary ids, about `share` of them masked."""
    generator = np.random.default_rng(seed)
    num_tokens = np.array(lengths, np.int32)
    ends = np.cumsum(num_tokens, dtype=np.int64)
    first_token = ends - num_tokens
    ids = generator.integers(max(special.all()) + 1, vocab_size, int(num_tokens.sum()), dtype=np.int32)
    ids[first_token], ids[ends - 1] = special.cls, special.sep
    ordinary = np.ones(len(ids), bool)
    ordinary[first_token] = ordinary[ends - 1] = False
    masked = np.flatnonzero(ordinary & (generator.random(len(ids)) < share))
    labels = ids[masked].copy()
    ids[masked] = special.mask
    first_masked = np.searchsorted(masked, first_token)
    return MaskedRows(
        row_id=np.arange(len(lengths), dtype=np.int64) << 16,
        copy=np.zeros(len(lengths), np.int16),
        language=np.zeros(len(lengths), np.int16),
        first_token=first_token,
        num_tokens=num_tokens,
        first_masked=first_masked.astype(np.int64),
        num_masked=(np.searchsorted(masked, ends) - first_masked).astype(np.int32),
        input_id=ids,
        masked_token=masked.astype(np.int64),
        label_id=labels,
    )
