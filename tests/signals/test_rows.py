"""Tables that contradict each other are refused, and it is said how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.records import SignalRequest
from orchestrator.signals.rows import Counts, check_rows, repeats
from tests.signals.samples import EVERYTHING, LANGUAGES, REQUEST, SIZES, VOCAB_SIZE, Shard, make_tables, units

UNIT = units()[0]
GERMAN = LANGUAGES.index("de")


def shift_first_token(tables: Shard) -> None:
    tables["texts"]["first_token"][3] += 1


def shift_first_masked(tables: Shard) -> None:
    tables["texts"]["first_masked"][1] -= 1


def lose_a_token(tables: Shard) -> None:
    tables["tokens"]["input_id"] = tables["tokens"]["input_id"][:-1]


def lose_a_masked_position(tables: Shard) -> None:
    tables["masked"]["token"] = tables["masked"]["token"][:-1]


def negative_length(tables: Shard) -> None:
    tables["texts"]["num_tokens"][0] *= -1


def swap_masked_positions(tables: Shard) -> None:
    tables["masked"]["token"][[0, 1]] = tables["masked"]["token"][[1, 0]]


def masked_position_of_another_row(tables: Shard) -> None:
    tables["masked"]["token"][-1] = tables["texts"]["first_token"][0]


def masked_position_after_the_end(tables: Shard) -> None:
    tables["masked"]["token"][-1] = len(tables["tokens"]["input_id"])


def negative_id(tables: Shard) -> None:
    tables["tokens"]["input_id"][0] = -1


def infinite_logprob(tables: Shard) -> None:
    tables["topk_004_all"]["top"][2] = -np.inf


def nan_partition(tables: Shard) -> None:
    tables["partition_t2_all"]["logsumexp"][2] = np.nan


def hidden_states_of_fewer_tokens(tables: Shard) -> None:
    tables["hidden_03"] = {name: column[1:] for name, column in tables["hidden_03"].items()}


def fewer_sentence_vectors(tables: Shard) -> None:
    tables["sentence_vectors"]["values"] = tables["sentence_vectors"]["values"][1:]


def foreign_id(tables: Shard) -> None:
    tables["topk_004_all"]["ids_low"][5, 2] = VOCAB_SIZE


def lose_a_code(tables: Shard) -> None:
    tables["drawn_007_all"]["code"] = tables["drawn_007_all"]["code"][:-1]


def count_another_draw(tables: Shard) -> None:
    code = tables["drawn_007_all"]["code"]
    code[3, 0] ^= 1


def foreign_drawn_id(tables: Shard) -> None:
    tables["drawn_007_all"]["code"][0] = 255


def same_row_twice(tables: Shard) -> None:
    tables["texts"]["row_id"][1], tables["texts"]["copy"][1] = tables["texts"]["row_id"][0], tables["texts"]["copy"][0]


def foreign_row(tables: Shard) -> None:
    tables["texts"]["language"][4] = 1


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (shift_first_token, "'first_token' and 'num_token'"),
        (shift_first_masked, "'first_masked' and 'num_masked'"),
        (lose_a_token, "'first_token' and 'num_token'"),
        (lose_a_masked_position, "'first_masked' and 'num_masked'"),
        (negative_length, "'first_token' and 'num_token'"),
        (swap_masked_positions, "outside their row, or not in ascending order"),
        (masked_position_of_another_row, "outside their row, or not in ascending order"),
        (masked_position_after_the_end, "outside their row, or not in ascending order"),
        (negative_id, "negative ids"),
        (infinite_logprob, "column 'top' of table 'topk_004_all' holds values that are not finite"),
        (nan_partition, "column 'logsumexp' of table 'partition_t2_all' holds values that are not finite"),
        (hidden_states_of_fewer_tokens, "table 'hidden_03' has"),
        (fewer_sentence_vectors, "table 'sentence_vectors' has 9 rows for 10 rows"),
        (foreign_id, "table 'topk_004_all' holds ids outside the vocabulary, 0 to 999"),
        (lose_a_code, "table 'drawn_007_all' has .* rows where its 'draws' table counts others"),
        (count_another_draw, "'drawn_007_all' holds positions with more or fewer than 7 draws"),
        (foreign_drawn_id, "table 'drawn_007_all' holds ids outside the vocabulary"),
        (same_row_twice, "same copy of the same row twice"),
        (foreign_row, "rows of another language"),
    ],
)
def test_contradictions(spoil: Callable[[Shard], None], sentence: str) -> None:
    tables = make_tables(UNIT, EVERYTHING)
    spoil(tables)
    with pytest.raises(StoreError, match=sentence):
        check_rows(tables, language=GERMAN, sizes=SIZES)


@pytest.mark.parametrize("request_", [REQUEST, EVERYTHING, replace(EVERYTHING, at_all_tokens=False)])
def test_sound_tables_are_counted(request_: SignalRequest) -> None:
    tables = make_tables(UNIT, request_)
    expected = Counts(10, len(tables["tokens"]["input_id"]), len(tables["masked"]["token"]))
    assert check_rows(tables, language=GERMAN, sizes=SIZES) == expected


def test_rows_without_masked_positions_and_no_rows_are_sound() -> None:
    tables = make_tables(UNIT)
    tables["texts"]["num_masked"][:] = 0
    tables["texts"]["first_masked"][:] = 0
    for table in ("masked", "topk_004", "partition", "partition_t2"):
        tables[table] = {name: column[:0] for name, column in tables[table].items()}
    assert check_rows(tables, language=GERMAN, sizes=SIZES).masked == 0
    empty = {table: {name: column[:0] for name, column in columns.items()} for table, columns in tables.items()}
    assert check_rows(empty, language=GERMAN, sizes=SIZES) == (0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2))))
def test_repeats_are_found(rows: list[tuple[int, int]]) -> None:
    row_id, copy = np.array(rows, np.int64).reshape(-1, 2).T
    assert repeats(row_id, copy.astype(np.int16)) == (len(set(rows)) < len(rows))
