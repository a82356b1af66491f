"""Whether the tables of a shard belong together: checked when they are written, and again by `Store.verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from orchestrator.errors import StoreError
from orchestrator.records import Array, Int64, Tables
from orchestrator.signals.draws import first_drawn, split_codes
from orchestrator.signals.schema import RowKind, TeacherSizes, rows_of
from orchestrator.signals.topk import decode_topk


class Counts(NamedTuple):
    """How much a shard, or a language, holds."""

    rows: int
    tokens: int
    masked: int


def check_rows(tables: Tables, *, language: int, sizes: TeacherSizes | None) -> Counts:
    """Counts of a shard whose rows are all of one language; StoreError says which table contradicts which.

    `tables` are the three that say which rows there are, and any of the others. Rows own consecutive tokens and masked
    positions without gaps, no (row_id, copy) stands twice, a masked position lies within its own row and they ascend,
    every table has a row for each text, token or position, ids are those of the vocabulary, what is no vector is
    finite, and the draws of every position are as many as they should be.
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
    if sizes is not None:
        _check_ids(input_id, "tokens", sizes)
        _check_ids(masked["label_id"], "masked", sizes)
    for name, columns in tables.items():
        _check_signal(name, columns, counts, sizes)
        if name.startswith("draws_") and sizes is not None:
            other = name.replace("draws_", "drawn_")
            if other in tables:
                _check_draws(columns["distinct"], tables[other]["code"], other, sizes)
    return counts


def repeats(row_id: Array, copy: Array) -> bool:
    """Whether any (row_id, copy) stands twice."""
    order = np.lexsort((copy, row_id))
    return bool(((np.diff(row_id[order]) == 0) & (np.diff(copy[order]) == 0)).any())


def _check_signal(table: str, columns: Mapping[str, Array], counts: Counts, sizes: TeacherSizes | None) -> None:
    expected: dict[RowKind, int] = {"text": counts.rows, "token": counts.tokens, "masked": counts.masked}
    kind = rows_of(table)
    if kind == "drawn":
        return
    for name, column in columns.items():
        if len(column) != expected[kind]:
            what = {"text": "rows", "token": "tokens", "masked": "masked positions"}[kind]
            raise StoreError(f"table '{table}' has {len(column)} rows for {expected[kind]} {what}")
        if name in ("top", "span", "logsumexp") and not np.isfinite(column).all():
            raise StoreError(
                f"column '{name}' of table '{table}' holds values that are not finite; the teacher overflowed"
            )
    if table.startswith("topk_") and sizes is not None:
        _check_ids(decode_topk(columns)[0], table, sizes)


def _check_draws(distinct: Array, code: Array, table: str, sizes: TeacherSizes) -> None:
    draws = int(table.split("_")[1])
    if distinct.sum(dtype=np.int64) != len(code) or (distinct == 0).any():
        raise StoreError(f"table '{table}' has {len(code)} rows where its 'draws' table counts others")
    ids, counts = split_codes(code, draws=draws)
    _check_ids(ids, table, sizes)
    if len(distinct) and (np.add.reduceat(counts, first_drawn(distinct)) != draws).any():
        raise StoreError(f"table '{table}' holds positions with more or fewer than {draws} draws")


def _check_ids(ids: Array, table: str, sizes: TeacherSizes) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= sizes.vocab_size):
        raise StoreError(f"table '{table}' holds ids outside the vocabulary, 0 to {sizes.vocab_size - 1}")


def _check_spans(first: Int64, length: Int64, total: int, what: str) -> None:
    ends = np.cumsum(length)
    if (length < 0).any() or not np.array_equal(first, ends - length) or (ends[-1] if len(ends) else 0) != total:
        raise StoreError(
            f"columns 'first_{what}' and 'num_{what}' of table 'texts' do not share out the {total} rows there are"
        )


def _whole(column: Array) -> Int64:
    return column.astype(np.int64, copy=False)
