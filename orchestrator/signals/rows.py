"""Whether the tables of a shard belong together: checked when they are written, and again by `Store.verify`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.errors import StoreError
from orchestrator.records import Array, Int64, Tables


class Counts(NamedTuple):
    """How much a shard, or a language, holds."""

    rows: int
    tokens: int
    masked: int


def check_rows(tables: Tables, *, language: int) -> Counts:
    """Counts of a shard whose rows are all of one language; StoreError says which table contradicts which.

    Rows own consecutive tokens and masked positions without gaps, no (row_id, copy) stands twice, a masked position
    lies within its own row and they ascend, ids are not negative, every probability is finite, and there are as many
    hidden states as tokens.
    """
    texts, masked = tables["texts"], tables["masked"]
    input_id, token = _whole(tables["tokens"]["input_id"]), _whole(masked["token"])
    counts = Counts(len(texts["row_id"]), len(input_id), len(token))
    if (texts["language"] != language).any():
        raise StoreError(f"table 'texts' holds rows of another language than number {language}")
    if repeats(texts["row_id"], texts["copy"]):
        raise StoreError("table 'texts' holds the same copy of the same row twice")
    num_tokens, num_masked = _whole(texts["num_tokens"]), _whole(texts["num_masked"])
    first_token, first_masked = _whole(texts["first_token"]), _whole(texts["first_masked"])
    _check_spans(first_token, num_tokens, counts.tokens, "token")
    _check_spans(first_masked, num_masked, counts.masked, "masked")
    first = np.repeat(first_token, num_masked)
    end = first + np.repeat(num_tokens, num_masked)
    if (token < first).any() or (token >= end).any() or (np.diff(token) <= 0).any():
        raise StoreError("table 'masked' names tokens outside their row, or not in ascending order")
    if (input_id < 0).any() or (_whole(masked["label_id"]) < 0).any():
        raise StoreError("tables 'tokens' and 'masked' hold negative ids")
    for name, column in masked.items():
        if np.issubdtype(column.dtype, np.floating) and not np.isfinite(column).all():
            raise StoreError(
                f"column '{name}' of table 'masked' holds values that are not finite; the teacher overflowed"
            )
    for name, columns in tables.items():
        if name.startswith("hidden_") and len(columns["values"]) != counts.tokens:
            raise StoreError(f"table '{name}' has {len(columns['values'])} rows for {counts.tokens} tokens")
    return counts


def repeats(row_id: Array, copy: Array) -> bool:
    """Whether any (row_id, copy) stands twice."""
    order = np.lexsort((copy, row_id))
    return bool(((np.diff(row_id[order]) == 0) & (np.diff(copy[order]) == 0)).any())


def _check_spans(first: Int64, length: Int64, total: int, what: str) -> None:
    ends = np.cumsum(length)
    if (length < 0).any() or not np.array_equal(first, ends - length) or (ends[-1] if len(ends) else 0) != total:
        raise StoreError(
            f"columns 'first_{what}' and 'num_{what}' of table 'texts' do not share out the {total} rows there are"
        )


def _whole(column: Array) -> Int64:
    return column.astype(np.int64, copy=False)
