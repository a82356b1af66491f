"""The visible schema of format 1, and the bytes that it predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.errors import StoreError
from orchestrator.records import HiddenCodec, SignalRequest, StateKey
from orchestrator.signals import TeacherSizes, bytes_per_token, partition_table, rows_of, state_table, table_columns
from orchestrator.signals.manifest import is_table
from orchestrator.signals.schema import code_bytes
from orchestrator.signals.tables import arrow_schema
from tests.signals.samples import EVERYTHING, SIZES, hidden, make_store, make_tables, units


def shown(request: SignalRequest, sizes: TeacherSizes = SIZES) -> dict[str, list[str]]:
    """Every table with its columns as Arrow has them."""
    return {
        table: [f"{f.name}: {f.type}" for f in arrow_schema(columns) if not f.nullable]
        for table, columns in table_columns(request, "int8", sizes).items()
    }


def test_the_tables_of_format_1() -> None:
    """Names, types and order are the format: other readers rely on them."""
    request = SignalRequest(
        top_k=64,
        temperatures=(1.5, 2.0),
        draws=50,
        head_states=True,
        states=(*hidden(0, 12), StateKey("key", 6)),
        sentence_vectors=True,
    )
    vectors = [
        "values: fixed_size_list<item: int8 not null>[100]",
        "scales: fixed_size_list<item: halffloat not null>[2]",
    ]
    assert shown(request, TeacherSizes(width=100, head_width=64, vocab_size=50_000)) == {
        "texts": [
            "row_id: int64",
            "copy: int16",
            "language: int16",
            "first_token: int64",
            "num_tokens: int32",
            "first_masked: int64",
            "num_masked: int32",
        ],
        "tokens": ["input_id: int32"],
        "masked": ["token: int64", "label_id: int32"],
        "topk_064": [
            "ids_low: fixed_size_list<item: uint16 not null>[64]",
            "top: halffloat",
            "span: halffloat",
            "below: fixed_size_list<item: uint8 not null>[64]",
        ],
        "partition": ["logsumexp: float"],
        "partition_t1.5": ["logsumexp: float"],
        "partition_t2": ["logsumexp: float"],
        "draws_050": ["distinct: uint8"],
        "drawn_050": ["code: fixed_size_list<item: uint8 not null>[3]"],
        "head_states": ["values: fixed_size_list<item: halffloat not null>[64]"],
        "hidden_00": vectors,
        "hidden_12": vectors,
        "key_06": vectors,
        "sentence_vectors": ["values: fixed_size_list<item: halffloat not null>[100]"],
    }


def test_tables_of_every_token_have_names_of_their_own() -> None:
    masked, everywhere = shown(replace(EVERYTHING, at_all_tokens=False)), shown(EVERYTHING)
    moved = ["topk_004", "partition", "partition_t1.5", "partition_t2", "draws_007", "drawn_007", "head_states"]
    assert [table for table in masked if table not in everywhere] == moved
    assert [table for table in everywhere if table not in masked] == [f"{table}_all" for table in moved]
    assert {rows_of(table) for table in moved} == {"masked", "drawn"}
    assert {rows_of(f"{table}_all") for table in moved} == {"token", "drawn"}
    assert [table for table in everywhere if rows_of(table) == "text"] == ["texts", "sentence_vectors"]


def test_nothing_is_stored_that_is_not_asked_for() -> None:
    assert list(table_columns(SignalRequest(), "int8", None)) == ["texts", "tokens", "masked"]
    assert [*shown(SignalRequest(top_k=1))][3:] == ["topk_001"]
    assert [*shown(SignalRequest(draws=300))][3:] == ["draws_300", "drawn_300"]
    assert shown(SignalRequest(draws=300))["draws_300"] == ["distinct: uint16"]
    assert list(table_columns(SignalRequest(states=hidden(4)), "fp16", SIZES)["hidden_04"]) == ["values"]
    with pytest.raises(StoreError, match="asked of a teacher that is a tokenizer alone"):
        table_columns(SignalRequest(states=hidden(4)), "fp16", None)


@pytest.mark.parametrize(
    "request_", [EVERYTHING, SignalRequest(top_k=10_000, temperatures=(1e-5, 1e16, 0.1), draws=65_535)]
)
def test_every_name_is_one_that_a_receipt_may_list(request_: SignalRequest) -> None:
    assert all(is_table(name) for name in table_columns(request_, "int8", SIZES))
    assert not any(map(is_table, ["", "topk", "hidden_1", "query_06_all", "partition_t..", "texts\n", "../texts"]))


def test_names() -> None:
    assert [*map(state_table, hidden(0, 7, 100))] == ["hidden_00", "hidden_07", "hidden_100"]
    names = [partition_table(SignalRequest(), t) for t in (1, 1.0, 2, 2.0, 0.5, 1.25, 10.0)]
    parts = ["", "", "_t2", "_t2", "_t0.5", "_t1.25", "_t10"]
    assert names == [f"partition{part}" for part in parts]


def test_a_code_has_as_many_bytes_as_it_needs() -> None:
    assert [code_bytes(size, 50) for size in (50_265, 250_002, 335_544, 335_545)] == [3, 3, 3, 4]
    for size, draws in ((1000, 1 << 16), (250_002, 60_000)):
        with pytest.raises(StoreError, match=f"{draws} draws at each position are more than can be stored"):
            code_bytes(size, draws)


def test_bytes_per_token_by_hand() -> None:
    sizes = TeacherSizes(width=768, head_width=128, vocab_size=50_000)
    request = SignalRequest(64, (2.0,), 50, True, states=(*hidden(12), StateKey("value", 3)), sentence_vectors=True)
    assert bytes_per_token(request, "fp16", sizes, 0.15) == pytest.approx(
        {
            "texts": 36 / 64,
            "tokens": 4,
            "masked": 0.15 * 12,
            "topk_064": 0.15 * (64 * 3 + 4),
            "partition": 0.15 * 4,
            "partition_t2": 0.15 * 4,
            "draws_050": 0.15,
            "drawn_050": 0.15 * 3 * 50**0.8,
            "head_states": 0.15 * 256,
            "hidden_12": 1536,
            "value_03": 1536,
            "sentence_vectors": 1536 / 64,
        }
    )
    everywhere = bytes_per_token(replace(request, at_all_tokens=True), "int8", sizes, 0.15)
    assert everywhere["topk_064_all"] == 64 * 3 + 4
    assert everywhere["drawn_050_all"] == pytest.approx(3 * 50**0.8)
    assert everywhere["hidden_12"] == 768 + 12 * 2


@pytest.mark.parametrize("codec", ["fp16", "int8"])
@pytest.mark.parametrize("at_all_tokens", [False, True])
def test_the_prediction_is_what_a_shard_takes(tmp_path: Path, codec: HiddenCodec, at_all_tokens: bool) -> None:
    request = replace(EVERYTHING, top_k=64, at_all_tokens=at_all_tokens)
    unit = units(texts=100, per_shard=100)[0]
    tables = make_tables(unit, request, codec, tokens_per_row=40)
    receipt = make_store(tmp_path, request, codec, plan=[unit]).write(unit, tables)
    share, length = receipt.num_masked / receipt.num_tokens, receipt.num_tokens / receipt.num_rows
    predicted = bytes_per_token(request, codec, SIZES, share, length)
    assert predicted.keys() == receipt.tables.keys()
    for table, entry in receipt.tables.items():
        if rows_of(table) != "drawn":  # which depends on the teacher
            description = 2500  # of the file itself
            assert abs(entry.num_bytes - predicted[table] * receipt.num_tokens) < description


def test_any_arrow_reader_can_use_a_shard(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    unit = store.units[0]
    tables = make_tables(unit)
    store.write(unit, tables)
    for table, column in (("topk_004", "ids_low"), ("partition_t2", "logsumexp"), ("hidden_03", "values")):
        with pa.ipc.open_file(store.folder / f"shards/000000/{table}.arrow") as reader:
            assert reader.read_all()[column].to_pylist() == tables[table][column].tolist()
