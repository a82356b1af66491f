"""A frozen teacher turns the masked rows of a unit into the tables of a shard.

Shape legend: R rows, N tokens of all rows, P positions of the output layer, D width.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import DataError
from orchestrator.models.encoder import Encoder
from orchestrator.records import Array, BatchPlan, HiddenCodec, MaskedRows, SignalRequest, Tables
from orchestrator.signals.codecs import encode_hidden
from orchestrator.signals.schema import (
    ROW_TABLES,
    SENTENCE_VECTORS,
    RowKind,
    TeacherSizes,
    rows_of,
    state_table,
    table_columns,
)
from orchestrator.teachers.batches import PaddedBatch, group_by_length, pad_rows
from orchestrator.teachers.positions import HeadSignals


def compute_signals(
    encoder: Encoder | None,
    rows: MaskedRows,
    request: SignalRequest,
    *,
    codec: HiddenCodec,
    plan: BatchPlan,
    pad_id: int,
    seed: int,
    vocab_size: int | None = None,
    tables: Collection[str] | None = None,
) -> Tables:
    """Everything that `request` asks for about `rows`, as the tables of format 1.

    Rows run in batches of like length (`group_by_length`); results stand in the order of `rows`. The head runs at
    masked positions alone, unless the request wants all tokens. The result is a pure function of the arguments and the
    number of threads, to the bit; a table is the same whatever else is computed with it, and an id that is drawn
    depends on seed, row id, copy and position alone.

    Args:
        encoder: frozen; None when the request needs no model.
        rows: in the teacher's ids.
        request: what to compute.
        codec: how states of layers are stored.
        plan: the batches, and the dtype of the encoder.
        pad_id: the tokenizer's padding id.
        seed: of what is drawn.
        vocab_size: ids that the tokenizer knows. Checkpoints may pad their vocabulary to a round number; rows beyond
            the tokenizer's are left out of the softmax, as if the head did not have them. None: all rows count.
        tables: compute these tables of the request alone; what none of them needs does not run. None: all.

    Returns:
        `texts`, `tokens` and `masked`, which `rows` are, and the tables, as `table_columns` describes them: the most
        probable ids first, their log-probabilities at temperature 1 over the whole vocabulary, log-partitions of the
        raw logits, draws at temperature 1, and mean vectors over the tokens of each row without padding.

    Raises:
        ConfigError: more ids are asked for than there are.
        DataError: an id is unknown to the model, or the model gives what is no number.
    """
    result = _allocate(rows, request, codec, None if encoder is None else teacher_sizes(encoder), tables)
    wanted = result.keys() - ROW_TABLES.keys()
    if not wanted:
        return result
    assert encoder is not None, "these tables need a model"
    _check_ids(rows, encoder.vocab_size)
    keys = [key for key in request.states if state_table(key) in wanted]
    of_layers = {SENTENCE_VECTORS, *map(state_table, keys)}
    head = None
    if wanted - of_layers:
        head = HeadSignals(encoder, rows, request, result, seed=seed, vocab_size=vocab_size)
    device = encoder.word_embeddings.weight.device
    with torch.inference_mode():
        for chosen in group_by_length(rows.num_tokens, tokens_per_batch=plan.tokens_per_batch):
            batch = pad_rows(rows, chosen, pad_id=pad_id)
            attention = batch.attention_mask.to(device)
            output = encoder(batch.input_ids.to(device), attention, states=keys)
            for key, states in output.states.items():
                values = _without_padding(states, batch).float().cpu().numpy()
                for name, column in encode_hidden(values, codec).items():
                    result[state_table(key)][name][batch.tokens] = column
            if SENTENCE_VECTORS in wanted:
                means = _row_means(output.last, attention).cpu().numpy()
                result[SENTENCE_VECTORS]["values"][chosen] = encode_hidden(means, "fp16")["values"]
            if head is not None:
                head.add(output.last, batch)
        if head is not None:
            head.finish()
    return result


def teacher_sizes(encoder: Encoder) -> TeacherSizes:
    """What decides the columns of this teacher's signals."""
    embeddings = encoder.word_embeddings
    return TeacherSizes(encoder.width, head_width=embeddings.embedding_dim, vocab_size=embeddings.num_embeddings)


def _allocate(
    rows: MaskedRows,
    request: SignalRequest,
    codec: HiddenCodec,
    sizes: TeacherSizes | None,
    tables: Collection[str] | None,
) -> dict[str, dict[str, Array]]:
    """What `rows` already say, and room for what the teacher will say; of what is drawn, when it is known how much."""
    result: dict[str, dict[str, Array]] = {
        "texts": {name: getattr(rows, name) for name in ROW_TABLES["texts"]},
        "tokens": {"input_id": rows.input_id},
        "masked": {"token": rows.masked_token, "label_id": rows.label_id},
    }
    lengths: dict[RowKind, int] = {"text": len(rows), "token": len(rows.input_id), "masked": len(rows.masked_token)}
    schema = table_columns(
        request if tables is None or {*tables} - ROW_TABLES.keys() else SignalRequest(), codec, sizes
    )
    for table, columns in schema.items():
        if table not in result and (tables is None or table in tables):
            length = lengths.get(rows_of(table), 0)
            result[table] = {
                name: np.empty((length,) if column.size is None else (length, column.size), column.dtype)
                for name, column in columns.items()
            }
    return result


def _without_padding(states: Tensor, batch: PaddedBatch) -> Tensor:
    """[B, L, D] -> [n, D]."""
    return states.flatten(0, 1).index_select(0, batch.token_positions.to(states.device))


def _row_means(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean over each row's tokens, special ones included and padding not: [B, L, D] -> float32 [B, D]."""
    weight = attention_mask.float() / attention_mask.sum(dim=1, keepdim=True)
    return torch.einsum("bl,bld->bd", weight, states.float())


def _check_ids(rows: MaskedRows, vocab_size: int) -> None:
    largest = int(rows.input_id.max(initial=0))
    if largest >= vocab_size:
        row = int(np.searchsorted(rows.first_token, rows.input_id.argmax(), side="right")) - 1
        raise DataError(
            f"row {int(rows.row_id[row])} has token id {largest}, but the teacher's vocabulary ends at"
            f" {vocab_size - 1}; give the tokenizer that this model was trained with"
        )
