"""Signals of a unit against transformers' plain outputs, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from orchestrator.errors import ConfigError, DataError
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.records import BatchPlan, MaskedRows, SignalRequest, Tables
from orchestrator.signals.codecs import decode_hidden
from orchestrator.signals.schema import table_columns
from orchestrator.signals.tables import check_columns
from orchestrator.teachers import head
from orchestrator.teachers.forward import compute_signals
from tests.models.tiny import ARCHITECTURES, SPECIAL, VOCAB_SIZE, build
from tests.teachers.rows import masked_rows

PLAN = BatchPlan(tokens_per_batch=40, threads=1, dtype="float32")
REQUEST = SignalRequest(top_k=5, temperatures=(2.0,), hidden_layers=(0, 1, 3))
LENGTHS = [9, 3, 17, 12, 3, 40, 9, 26]


@pytest.fixture(scope="module")
def rows() -> MaskedRows:
    return masked_rows(LENGTHS, special=SPECIAL, vocab_size=VOCAB_SIZE)


def _signals(encoder: Encoder | None, rows: MaskedRows, request: SignalRequest = REQUEST, **options: object) -> Tables:
    settings: dict[str, object] = {"codec": "fp16", "plan": PLAN, "pad_id": SPECIAL.pad} | options
    return compute_signals(encoder, rows, request, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_signals_are_those_of_transformers_for_each_row_alone(architecture: str, rows: MaskedRows) -> None:
    encoder = freeze(build(architecture))
    tables = _signals(encoder, rows)
    for row, length in enumerate(LENGTHS):
        tokens = slice(rows.first_token[row], rows.first_token[row] + length)
        ids = torch.from_numpy(rows.input_id[tokens]).long()[None]
        with torch.no_grad():
            output = encoder.model(input_ids=ids, output_hidden_states=True)
        for layer in REQUEST.hidden_layers:
            found = tables[f"hidden_{layer:02d}"]["values"][tokens].astype(np.float32)
            np.testing.assert_allclose(found, output.hidden_states[layer][0], atol=2e-3)
        masked = slice(rows.first_masked[row], rows.first_masked[row] + rows.num_masked[row])
        z = output.logits[0, rows.masked_token[masked] - rows.first_token[row]]
        columns = {name: torch.from_numpy(column[masked]) for name, column in tables["masked"].items()}
        torch.testing.assert_close(columns["logsumexp"], torch.logsumexp(z, 1), rtol=0, atol=1e-5)
        torch.testing.assert_close(columns["logsumexp_t2"], torch.logsumexp(z / 2, 1), rtol=0, atol=1e-5)
        logprobs = torch.log_softmax(z, 1)
        torch.testing.assert_close(columns["topk_logprobs"].float(), logprobs.topk(5).values, rtol=0, atol=3e-3)
        kept = logprobs.gather(1, columns["topk_ids"].long())
        torch.testing.assert_close(kept, logprobs.topk(5).values, rtol=0, atol=1e-5)


def test_tables_are_those_of_format_1(rows: MaskedRows) -> None:
    encoder = freeze(build("bert"))
    for codec in ("fp16", "int8"):
        tables = _signals(encoder, rows, codec=codec)
        schema = table_columns(REQUEST, codec, encoder.width)
        assert tables.keys() == schema.keys()
        for name, columns in tables.items():
            check_columns(columns, schema[name], table=name)
    assert tables["masked"]["token"] is rows.masked_token
    assert tables["tokens"]["input_id"] is rows.input_id


def test_int8_states_are_near_those_of_fp16(rows: MaskedRows) -> None:
    encoder = freeze(build("bert"))
    exact, coded = (_signals(encoder, rows, codec=codec)["hidden_03"] for codec in ("fp16", "int8"))
    assert coded["values"].dtype == np.int8
    difference = decode_hidden(coded, "int8") - exact["values"].astype(np.float32)
    assert np.abs(difference).max() < 0.03


def test_the_same_plan_gives_the_same_bytes_and_another_one_nearly(rows: MaskedRows) -> None:
    encoder = freeze(build("bert"))
    first, second = _signals(encoder, rows), _signals(encoder, rows)
    other = _signals(encoder, rows, plan=replace(PLAN, tokens_per_batch=1))
    for table, columns in first.items():
        for name, column in columns.items():
            assert column.tobytes() == second[table][name].tobytes()
            if name != "topk_ids":
                np.testing.assert_allclose(column.astype(float), other[table][name].astype(float), atol=4e-3)


def test_positions_of_several_batches_share_a_matrix_product(rows: MaskedRows, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = freeze(build("bert"))
    expected = _signals(encoder, rows)["masked"]
    monkeypatch.setattr("orchestrator.teachers.forward.ROWS", 7)
    sizes = []
    plain = head.distribution

    def counted(states: torch.Tensor, *args: object, **options: object) -> head.Distribution:
        sizes.append(len(states))
        return plain(states, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("orchestrator.teachers.forward.distribution", counted)
    found = _signals(encoder, rows)["masked"]
    assert set(sizes[:-1]) == {7}
    assert sum(sizes) == len(rows.masked_token)
    np.testing.assert_allclose(found["logsumexp"], expected["logsumexp"], atol=1e-5)


def test_padding_rows_of_the_vocabulary_are_no_candidates(rows: MaskedRows) -> None:
    encoder = freeze(build("bert"))
    with torch.no_grad():
        encoder.decoder.bias[60:] += 50.0  # such rows were never trained: their logits may be anything
    assert (_signals(encoder, rows)["masked"]["topk_ids"] >= 60).any()
    limited = _signals(encoder, rows, vocab_size=60)["masked"]
    assert (limited["topk_ids"] < 60).all()
    assert (np.exp(limited["topk_logprobs"].astype(float)).sum(1) > 5 / 60).all()


def test_nothing_runs_when_only_text_is_asked_for(rows: MaskedRows) -> None:
    tables = _signals(None, rows, SignalRequest())
    assert {name: list(columns) for name, columns in tables.items()} == {
        "texts": ["row_id", "copy", "language", "first_token", "num_tokens", "first_masked", "num_masked"],
        "tokens": ["input_id"],
        "masked": ["token", "label_id"],
    }


def test_hidden_states_need_no_head(rows: MaskedRows) -> None:
    bare = Encoder(build("bert").base).eval()
    assert not bare.has_head
    tables = _signals(freeze(bare), rows, SignalRequest(hidden_layers=(3,)))
    assert tables["hidden_03"]["values"].shape == (sum(LENGTHS), 32)


@pytest.mark.parametrize("lengths", [[], [2, 2]])
def test_rows_without_masked_positions(lengths: list[int]) -> None:
    tables = _signals(freeze(build("bert")), masked_rows(lengths, special=SPECIAL, vocab_size=VOCAB_SIZE))
    assert tables["masked"]["topk_ids"].shape == (0, 5)
    assert tables["hidden_00"]["values"].shape == (sum(lengths), 32)


def test_more_ids_than_the_vocabulary_has(rows: MaskedRows) -> None:
    with pytest.raises(ConfigError, match="61 ids are asked of a teacher whose vocabulary has 60"):
        _signals(freeze(build("bert")), rows, SignalRequest(top_k=61), vocab_size=60)


def test_ids_of_another_tokenizer() -> None:
    foreign = masked_rows([8, 9], special=SPECIAL, vocab_size=VOCAB_SIZE)
    foreign.input_id[10] = VOCAB_SIZE
    with pytest.raises(DataError, match=rf"row {1 << 16} has token id {VOCAB_SIZE}"):
        _signals(freeze(build("bert")), foreign)


def test_logits_that_are_no_numbers(rows: MaskedRows) -> None:
    encoder = freeze(build("bert"))
    with torch.no_grad():
        encoder.decoder.bias[0] = float("nan")
    with pytest.raises(DataError, match="not all finite"):
        _signals(encoder, rows, SignalRequest(top_k=2))
