"""Signals of a unit against transformers' plain outputs, row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import ConfigError, DataError
from orchestrator.models.checkpoints import describe_checkpoint
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.records import BatchPlan, MaskedRows, SignalRequest, StateKey, Tables
from orchestrator.signals.codecs import decode_hidden
from orchestrator.signals.draws import decode_draws, split_codes
from orchestrator.signals.rows import check_rows
from orchestrator.signals.schema import ROW_TABLES, TeacherSizes, state_table, table_columns
from orchestrator.signals.tables import check_columns
from orchestrator.signals.topk import decode_topk
from orchestrator.teachers import head
from orchestrator.teachers.forward import compute_signals, teacher_sizes
from tests.models.tiny import ARCHITECTURES, SPECIAL, VOCAB_SIZE, build
from tests.signals.samples import hidden
from tests.teachers.rows import masked_rows

PLAN = BatchPlan(tokens_per_batch=40, threads=1, dtype="float32")
REQUEST = SignalRequest(top_k=5, temperatures=(2.0,), states=hidden(0, 1, 3))
#: Every signal there is.
EVERYTHING = replace(
    REQUEST,
    draws=20,
    head_states=True,
    states=(*hidden(0, 1, 3), *(StateKey(kind, 2) for kind in ("key", "query", "value"))),
    sentence_vectors=True,
)
LENGTHS = [9, 3, 17, 12, 3, 40, 9, 26]


@pytest.fixture(scope="module")
def rows() -> MaskedRows:
    return masked_rows(LENGTHS, special=SPECIAL, vocab_size=VOCAB_SIZE)


def _signals(encoder: Encoder | None, rows: MaskedRows, request: SignalRequest = REQUEST, **options: object) -> Tables:
    settings: dict[str, object] = {"codec": "fp16", "plan": PLAN, "pad_id": SPECIAL.pad, "seed": 7} | options
    return compute_signals(encoder, rows, request, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("everywhere", [False, True])
def test_signals_are_those_of_transformers_for_each_row_alone(
    architecture: str, everywhere: bool, rows: MaskedRows
) -> None:
    encoder = freeze(build(architecture))
    request = replace(EVERYTHING, at_all_tokens=everywhere)
    tables = _signals(encoder, rows, request)
    first_drawn_code = 0
    for row, length in enumerate(LENGTHS):
        tokens = slice(rows.first_token[row], rows.first_token[row] + length)
        ids = torch.from_numpy(rows.input_id[tokens]).long()[None]
        with torch.no_grad():
            output = encoder.model(input_ids=ids, output_hidden_states=True)
            alone = encoder(ids, torch.ones_like(ids), states=request.states)
        for key in request.states:
            found = tables[state_table(key)]["values"][tokens].astype(np.float32)
            np.testing.assert_allclose(found, alone.states[key][0], atol=2e-3)
            if key.kind == "hidden":
                np.testing.assert_allclose(found, output.hidden_states[key.layer][0], atol=2e-3)
        mean = output.hidden_states[-1][0].mean(0)
        np.testing.assert_allclose(tables["sentence_vectors"]["values"][row].astype(np.float32), mean, atol=1e-3)

        masked = slice(rows.first_masked[row], rows.first_masked[row] + rows.num_masked[row])
        positions = tokens if everywhere else masked
        z = output.logits[0]
        if not everywhere:
            z = z[rows.masked_token[masked] - rows.first_token[row]]

        def column(table: str, name: str, positions: slice = positions) -> torch.Tensor:
            suffix = "_all" if everywhere else ""
            return torch.from_numpy(tables[table + suffix][name][positions])

        torch.testing.assert_close(column("partition", "logsumexp"), torch.logsumexp(z, 1), rtol=0, atol=1e-5)
        torch.testing.assert_close(column("partition_t2", "logsumexp"), torch.logsumexp(z / 2, 1), rtol=0, atol=1e-5)
        logprobs = torch.log_softmax(z, 1)
        best = logprobs.topk(5).values
        topk = tables["topk_005_all" if everywhere else "topk_005"]
        ids, stored = map(torch.from_numpy, decode_topk({name: rows[positions] for name, rows in topk.items()}))
        torch.testing.assert_close(stored, best, rtol=0, atol=3e-3)
        kept = logprobs.gather(1, ids)
        torch.testing.assert_close(kept, best, rtol=0, atol=1e-5)
        states = column("head_states", "values").float()
        logits = torch.nn.functional.linear(states, encoder.decoder_weight, encoder.decoder_bias)
        torch.testing.assert_close(logits, z, rtol=0, atol=4e-3)
        distinct = column("draws_020", "distinct")
        codes = slice(first_drawn_code, first_drawn_code + int(distinct.sum()))
        first_drawn_code = codes.stop
        drawn, counts = decode_draws(distinct.numpy(), column("drawn_020", "code", codes).numpy(), draws=20)
        assert (counts.sum(1) == 20).all()
        assert drawn.max(initial=0) < VOCAB_SIZE


def test_tables_are_those_of_format_1(rows: MaskedRows) -> None:
    encoder = freeze(build("bert"))
    for codec in ("fp16", "int8"):
        for request in (REQUEST, EVERYTHING, replace(EVERYTHING, at_all_tokens=True)):
            tables = _signals(encoder, rows, request, codec=codec)
            schema = table_columns(request, codec, teacher_sizes(encoder))
            assert tables.keys() == schema.keys()
            for name, columns in tables.items():
                check_columns(columns, schema[name], table=name)
            check_rows(tables, language=0, sizes=teacher_sizes(encoder))
    assert tables["masked"]["token"] is rows.masked_token
    assert tables["tokens"]["input_id"] is rows.input_id


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_sizes_are_those_that_the_checkpoint_describes(architecture: str, tmp_path: Path) -> None:
    encoder = build(architecture)
    encoder.model.save_pretrained(tmp_path)
    info = describe_checkpoint(str(tmp_path))
    sizes = TeacherSizes(info.width, info.embedding_width, info.vocab_size)
    assert teacher_sizes(encoder) == sizes == TeacherSizes(32, encoder.decoder_weight.shape[1], VOCAB_SIZE)


def test_a_table_alone_is_the_one_that_is_computed_with_all_others(rows: MaskedRows) -> None:
    encoder = freeze(build("modernbert"))
    whole = _signals(encoder, rows, EVERYTHING)
    for table in whole.keys() - ROW_TABLES.keys():
        found = _signals(encoder, rows, EVERYTHING, tables=[table])
        assert found.keys() == {*ROW_TABLES, table}
        for name, column in found[table].items():
            assert column.tobytes() == whole[table][name].tobytes()


def test_what_is_not_wanted_does_not_run(rows: MaskedRows, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = freeze(build("bert"))
    ran: list[str] = []
    forward, head_states = encoder.forward, encoder.head_states
    monkeypatch.setattr(encoder, "forward", lambda *a, **o: ran.append("encoder") or forward(*a, **o))
    monkeypatch.setattr(encoder, "head_states", lambda *a: ran.append("head") or head_states(*a))
    monkeypatch.setattr(
        "orchestrator.teachers.positions.distribution",
        lambda *a, **o: ran.append("decoder") or head.distribution(*a, **o),
    )
    for tables, expected in [
        ((), set()),
        (("masked", "texts"), set()),
        (("sentence_vectors",), {"encoder"}),
        (("key_02", "hidden_00"), {"encoder"}),
        (("head_states",), {"encoder", "head"}),
        (("draws_020",), {"encoder", "head", "decoder"}),
    ]:
        ran.clear()
        _signals(encoder, rows, EVERYTHING, tables=tables)
        assert set(ran) == expected


def test_draws_are_a_function_of_seed_row_copy_and_position(rows: MaskedRows) -> None:
    """Not of the batches, the other rows of the unit, or what else is asked; n draws do not contain fewer of them."""
    encoder = freeze(build("bert"))
    request = SignalRequest(draws=20)

    def drawn(rows: MaskedRows, request: SignalRequest = request, **options: object) -> np.ndarray:
        tables = _signals(encoder, rows, request, **options)
        suffix = "_all" if request.at_all_tokens else ""
        ids, counts = decode_draws(
            tables[f"draws_020{suffix}"]["distinct"], tables[f"drawn_020{suffix}"]["code"], draws=20
        )
        dense = np.zeros((len(ids), VOCAB_SIZE), int)
        np.add.at(dense, (np.repeat(np.arange(len(ids)), ids.shape[1]), ids.reshape(-1)), counts.reshape(-1))
        return dense

    plain = drawn(rows)
    assert np.array_equal(drawn(rows, plan=replace(PLAN, tokens_per_batch=1)), plain)
    assert np.array_equal(drawn(rows, replace(EVERYTHING, at_all_tokens=True))[rows.masked_token], plain)
    for other in (
        drawn(rows, seed=8),
        drawn(replace(rows, copy=rows.copy + 1)),
        drawn(replace(rows, row_id=rows.row_id + 1)),
    ):
        assert (other != plain).any(axis=1).mean() > 0.9


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
            if name not in ("ids_low", "below", "code", "distinct"):
                np.testing.assert_allclose(column.astype(float), other[table][name].astype(float), atol=4e-3)


def test_positions_of_several_batches_share_a_matrix_product(rows: MaskedRows, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = freeze(build("bert"))
    expected = _signals(encoder, rows)["partition"]
    monkeypatch.setattr("orchestrator.teachers.positions.ROWS", 7)
    sizes = []
    plain = head.distribution

    def counted(states: torch.Tensor, *args: object, **options: object) -> head.Distribution:
        sizes.append(len(states))
        return plain(states, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("orchestrator.teachers.positions.distribution", counted)
    found = _signals(encoder, rows)["partition"]
    assert set(sizes[:-1]) == {7}
    assert sum(sizes) == len(rows.masked_token)
    np.testing.assert_allclose(found["logsumexp"], expected["logsumexp"], atol=1e-5)


def test_padding_rows_of_the_vocabulary_are_no_candidates(rows: MaskedRows) -> None:
    encoder = freeze(build("bert"))
    with torch.no_grad():
        encoder.decoder.bias[60:] += 50.0  # such rows were never trained: their logits may be anything
    assert (_signals(encoder, rows)["topk_005"]["ids_low"] >= 60).any()
    limited = _signals(encoder, rows, EVERYTHING, vocab_size=60)
    assert (limited["topk_005"]["ids_low"] < 60).all()
    assert (np.exp(decode_topk(limited["topk_005"])[1]).sum(1) > 5 / 60).all()
    assert split_codes(limited["drawn_020"]["code"], draws=20)[0].max() < 60


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
    tables = _signals(freeze(bare), rows, SignalRequest(states=hidden(3)))
    assert tables["hidden_03"]["values"].shape == (sum(LENGTHS), 32)


@pytest.mark.parametrize("lengths", [[], [2, 2]])
@pytest.mark.parametrize("everywhere", [False, True])
def test_rows_without_masked_positions(lengths: list[int], everywhere: bool) -> None:
    rows = masked_rows(lengths, special=SPECIAL, vocab_size=VOCAB_SIZE)
    encoder = freeze(build("bert"))
    tables = _signals(encoder, rows, replace(EVERYTHING, at_all_tokens=everywhere))
    positions = sum(lengths) if everywhere else 0
    assert tables["topk_005_all" if everywhere else "topk_005"]["ids_low"].shape == (positions, 5)
    assert tables["hidden_00"]["values"].shape == (sum(lengths), 32)
    check_rows(tables, language=0, sizes=teacher_sizes(encoder))


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
    with pytest.raises(DataError, match="not all finite"):
        _signals(encoder, rows, SignalRequest(draws=20))
