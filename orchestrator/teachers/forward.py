"""A frozen teacher turns the masked rows of a unit into the tables of a shard.

Shape legend: R rows, N tokens of all rows, M masked positions of all rows, K kept ids, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import ConfigError, DataError
from orchestrator.models.encoder import Encoder
from orchestrator.records import Array, BatchPlan, HiddenCodec, Int64, MaskedRows, SignalRequest, Tables
from orchestrator.signals.codecs import encode_hidden
from orchestrator.signals.schema import hidden_table, logsumexp_column, table_columns
from orchestrator.teachers.batches import PaddedBatch, group_by_length, pad_rows
from orchestrator.teachers.head import ROWS, distribution


def compute_signals(
    encoder: Encoder | None,
    rows: MaskedRows,
    request: SignalRequest,
    *,
    codec: HiddenCodec,
    plan: BatchPlan,
    pad_id: int,
    vocab_size: int | None = None,
) -> Tables:
    """Everything that `request` asks for about `rows`, as the columns of format 1.

    Rows run in batches of like length (`group_by_length`); results stand in the order of `rows`. The head runs at
    masked positions alone. The result is a pure function of the arguments and the number of threads, to the bit.

    Args:
        encoder: frozen; None when the request needs no model.
        rows: in the teacher's ids.
        request: what to compute.
        codec: how hidden states are stored.
        plan: the batches, and the dtype of the encoder.
        pad_id: the tokenizer's padding id.
        vocab_size: ids that the tokenizer knows. Checkpoints may pad their vocabulary to a round number; rows beyond
            the tokenizer's are left out of the softmax, as if the head did not have them. None: all rows count.

    Returns:
        `texts`, `tokens`, `masked` and one `hidden_NN` per layer. `topk_ids` int32 [M, K] with the most probable id
        first, `topk_logprobs` float16 [M, K] at temperature 1 over the whole vocabulary, `logsumexp` float32 [M] of the
        raw logits, and `logsumexp_t<T>` of the logits divided by T.

    Raises:
        ConfigError: more ids are asked for than there are.
        DataError: an id is unknown to the model, or the model gives what is no number.
    """
    tables = _allocate(rows, request, codec, None if encoder is None else encoder.width)
    if not request.needs_model:
        return tables
    assert encoder is not None, "this request needs a model"
    _check_ids(rows, encoder.vocab_size)
    head = _MaskedHead(encoder, request, tables["masked"], vocab_size) if request.needs_head else None
    device = encoder.word_embeddings.weight.device
    with torch.inference_mode():
        for chosen in group_by_length(rows.num_tokens, tokens_per_batch=plan.tokens_per_batch):
            batch = pad_rows(rows, chosen, pad_id=pad_id)
            output = encoder(batch.input_ids.to(device), batch.attention_mask.to(device), layers=request.hidden_layers)
            for layer, states in output.hidden.items():
                values = _at(states, batch.token_positions).float().cpu().numpy()
                for name, column in encode_hidden(values, codec).items():
                    tables[hidden_table(layer)][name][batch.tokens] = column
            if head is not None:
                head.add(output.last, batch)
        if head is not None:
            head.finish()
    return tables


class _MaskedHead:
    """Collects hidden states at masked positions over batches until they fill a matrix product, then reduces them."""

    def __init__(
        self, encoder: Encoder, request: SignalRequest, columns: Mapping[str, Array], vocab_size: int | None
    ) -> None:
        """`columns` of the table of masked positions are filled in place."""
        assert encoder.has_head, "this request needs a masked-language-model head"
        size = encoder.vocab_size if vocab_size is None else min(vocab_size, encoder.vocab_size)
        if request.top_k > size:
            raise ConfigError(f"k: {request.top_k} ids are asked of a teacher whose vocabulary has {size}; lower k")
        self._encoder = encoder
        self._weight = encoder.decoder_weight[:size]
        self._bias = None if encoder.decoder_bias is None else encoder.decoder_bias[:size]
        self._request = request
        self._columns = columns
        self._states: list[Tensor] = []
        self._masked: list[Int64] = []

    def add(self, last: Tensor, batch: PaddedBatch) -> None:
        """Take the masked positions of one batch; `last` [B, L, D]."""
        self._states.append(_at(last, batch.masked_positions))
        self._masked.append(batch.masked)
        if sum(map(len, self._masked)) >= ROWS:
            self._run(keep_remainder=True)

    def finish(self) -> None:
        """Run the positions that are left over."""
        if self._states:
            self._run(keep_remainder=False)

    def _run(self, *, keep_remainder: bool) -> None:
        states, masked = torch.cat(self._states), np.concatenate(self._masked)
        whole = len(masked) // ROWS * ROWS if keep_remainder else len(masked)
        for first in range(0, whole, ROWS):
            positions = slice(first, min(first + ROWS, whole))
            self._reduce(states[positions], masked[positions])
        self._states, self._masked = [states[whole:]], [masked[whole:]]

    def _reduce(self, states: Tensor, masked: Int64) -> None:
        found = distribution(
            self._encoder.head_states(states),
            self._weight,
            self._bias,
            k=self._request.top_k,
            temperatures=(1.0, *self._request.temperatures),
        )
        log_partition = found.log_partitions[1.0]
        if not torch.isfinite(log_partition).all():
            raise DataError("the teacher's logits are not all finite numbers; run this teacher in dtype float32")
        self._columns["topk_ids"][masked] = found.ids.int().cpu().numpy()
        self._columns["topk_logprobs"][masked] = (found.logits - log_partition[:, None]).half().cpu().numpy()
        for temperature, values in found.log_partitions.items():
            self._columns[logsumexp_column(temperature)][masked] = values.cpu().numpy()


def _allocate(
    rows: MaskedRows, request: SignalRequest, codec: HiddenCodec, width: int | None
) -> dict[str, dict[str, Array]]:
    """The tables of format 1: what `rows` already says, and room for what the teacher will say."""
    known: dict[str, dict[str, Array]] = {
        "texts": {
            "row_id": rows.row_id,
            "copy": rows.copy,
            "language": rows.language,
            "first_token": rows.first_token,
            "num_tokens": rows.num_tokens,
            "first_masked": rows.first_masked,
            "num_masked": rows.num_masked,
        },
        "tokens": {"input_id": rows.input_id},
        "masked": {"token": rows.masked_token, "label_id": rows.label_id},
    }
    lengths = {"texts": len(rows), "masked": len(rows.masked_token)}
    tables: dict[str, dict[str, Array]] = {}
    for table, columns in table_columns(request, codec, width).items():
        length, given = lengths.get(table, len(rows.input_id)), known.get(table, {})
        tables[table] = {
            name: given[name]
            if name in given
            else np.empty((length,) if column.size is None else (length, column.size), column.dtype)
            for name, column in columns.items()
        }
    return tables


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """Rows of `states` [B, L, D] at flat positions: [n, D]."""
    return states.flatten(0, 1).index_select(0, positions.to(states.device))


def _check_ids(rows: MaskedRows, vocab_size: int) -> None:
    largest = int(rows.input_id.max(initial=0))
    if largest >= vocab_size:
        row = int(np.searchsorted(rows.first_token, rows.input_id.argmax(), side="right")) - 1
        raise DataError(
            f"row {int(rows.row_id[row])} has token id {largest}, but the teacher's vocabulary ends at"
            f" {vocab_size - 1}; give the tokenizer that this model was trained with"
        )
