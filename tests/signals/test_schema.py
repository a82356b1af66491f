"""The visible schema of format 1, and the bytes that it predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.errors import StoreError
from orchestrator.records import SignalRequest
from orchestrator.signals import bytes_per_token, hidden_table, logsumexp_column, table_columns
from orchestrator.signals.tables import arrow_schema
from tests.signals.samples import make_store, make_tables, units


def test_the_tables_of_format_1() -> None:
    """Names, types and order are the format: other readers rely on them."""
    tables = table_columns(SignalRequest(64, (2.0, 1.5), (0, 12)), "int8", 100)
    shown = {
        table: [f"{f.name}: {f.type} not null" for f in arrow_schema(columns) if not f.nullable]
        for table, columns in tables.items()
    }
    assert shown == {
        "texts": [
            "row_id: int64 not null",
            "copy: int16 not null",
            "language: int16 not null",
            "first_token: int64 not null",
            "num_tokens: int32 not null",
            "first_masked: int64 not null",
            "num_masked: int32 not null",
        ],
        "tokens": ["input_id: int32 not null"],
        "masked": [
            "token: int64 not null",
            "label_id: int32 not null",
            "topk_ids: fixed_size_list<item: int32 not null>[64] not null",
            "topk_logprobs: fixed_size_list<item: halffloat not null>[64] not null",
            "logsumexp: float not null",
            "logsumexp_t2: float not null",
            "logsumexp_t1.5: float not null",
        ],
        "hidden_00": [
            "values: fixed_size_list<item: int8 not null>[100] not null",
            "scales: fixed_size_list<item: halffloat not null>[2] not null",
        ],
        "hidden_12": [
            "values: fixed_size_list<item: int8 not null>[100] not null",
            "scales: fixed_size_list<item: halffloat not null>[2] not null",
        ],
    }


def test_nothing_is_stored_that_is_not_asked_for() -> None:
    assert list(table_columns(SignalRequest(), "int8", None)) == ["texts", "tokens", "masked"]
    assert list(table_columns(SignalRequest(), "int8", None)["masked"]) == ["token", "label_id"]
    assert list(table_columns(SignalRequest(hidden_layers=(4,)), "fp16", 8)["hidden_04"]) == ["values"]
    with pytest.raises(StoreError, match="layer 4 are asked of a teacher whose hidden size is not known"):
        table_columns(SignalRequest(hidden_layers=(4,)), "fp16", None)


def test_names_of_tables_and_columns() -> None:
    assert [hidden_table(layer) for layer in (0, 7, 24, 100)] == ["hidden_00", "hidden_07", "hidden_24", "hidden_100"]
    names = [logsumexp_column(t) for t in (1, 1.0, 2, 2.0, 0.5, 1.25, 10.0)]
    assert names == [
        "logsumexp",
        "logsumexp",
        "logsumexp_t2",
        "logsumexp_t2",
        "logsumexp_t0.5",
        "logsumexp_t1.25",
        "logsumexp_t10",
    ]


def test_bytes_per_token_by_hand() -> None:
    found = bytes_per_token(SignalRequest(64, (), (12,)), "fp16", 768, 0.15)
    assert found == pytest.approx(
        {"texts": 36 / 64, "tokens": 4, "masked": 0.15 * (12 + 64 * 6 + 4), "hidden_12": 1536}
    )
    assert bytes_per_token(SignalRequest(0, (), (1,)), "int8", 384, 0.15)["hidden_01"] == 384 + 6 * 2


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_the_prediction_is_what_a_shard_takes(tmp_path: Path, codec: str) -> None:
    request = SignalRequest(top_k=64, temperatures=(2.0,), hidden_layers=(0, 6))
    unit = units(texts=100, per_shard=100)[0]
    tables = make_tables(unit, request, codec, width=384, tokens_per_row=40)
    receipt = make_store(tmp_path, request, codec, plan=[unit], width=384).write(unit, tables)
    share, length = receipt.num_masked / receipt.num_tokens, receipt.num_tokens / receipt.num_rows
    predicted = bytes_per_token(request, codec, 384, share, length)
    for table, entry in receipt.tables.items():
        description = 2500  # of the file itself
        assert abs(entry.num_bytes - predicted[table] * receipt.num_tokens) < description
    assert np.isclose(
        sum(predicted.values()), sum(e.num_bytes for e in receipt.tables.values()) / receipt.num_tokens, rtol=0.03
    )


def test_any_arrow_reader_can_use_a_shard(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    unit = store.units[0]
    tables = make_tables(unit)
    store.write(unit, tables)
    with pa.ipc.open_file(tmp_path / store.folder.name / "shards/000000/masked.arrow") as reader:
        found = reader.read_all()
    assert found["topk_ids"].to_pylist() == tables["masked"]["topk_ids"].tolist()
    assert found["logsumexp_t2"].to_pylist() == tables["masked"]["logsumexp_t2"].tolist()
