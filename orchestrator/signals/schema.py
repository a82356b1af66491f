"""Format 1 in one place: which tables a request makes, and which fixed-width columns each of them has.

K kept ids, D width, S = ⌈D/64⌉ scales. A table is a matrix: a row of a column is one value, or one list of
fixed size.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from orchestrator.errors import StoreError
from orchestrator.records import HiddenCodec, SignalRequest
from orchestrator.signals.codecs import num_blocks


class Column(NamedTuple):
    """One column: its numpy dtype, and its list size where a row holds a list."""

    dtype: np.dtype[np.generic]
    size: int | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * (1 if self.size is None else self.size)


Schema: TypeAlias = dict[str, dict[str, Column]]

_INT8, _INT16, _INT32, _INT64 = (Column(np.dtype(name)) for name in ("int8", "int16", "int32", "int64"))
_HALF, _FLOAT = Column(np.dtype("float16")), Column(np.dtype("float32"))

_TEXTS = {
    "row_id": _INT64,
    "copy": _INT16,
    "language": _INT16,
    "first_token": _INT64,
    "num_tokens": _INT32,
    "first_masked": _INT64,
    "num_masked": _INT32,
}

#: The columns that say which row, token and position it is, and nothing of what the teacher said.
ROW_COLUMNS = {"texts": tuple(_TEXTS), "tokens": ("input_id",), "masked": ("token", "label_id")}


def hidden_table(layer: int) -> str:
    """The table of one layer's hidden states; layer 0 is the embedding output."""
    return f"hidden_{layer:02d}"


def logsumexp_column(temperature: float) -> str:
    """The column that holds log Σ exp(z / T) of the raw logits z: `logsumexp`, `logsumexp_t2`, `logsumexp_t1.5`."""
    return "logsumexp" if temperature == 1 else f"logsumexp_t{temperature!r}".removesuffix(".0")


def table_columns(request: SignalRequest, codec: HiddenCodec, width: int | None) -> Schema:
    """Table → column → (dtype, list size) of a shard that holds what `request` asks.

    `width` is the teacher's hidden size D, needed when hidden layers are asked for; else StoreError.
    """
    tables = {
        "texts": dict(_TEXTS),
        "tokens": {"input_id": _INT32},
        "masked": {"token": _INT64, "label_id": _INT32} | _distribution(request),
    }
    for layer in request.hidden_layers:
        if width is None:
            raise StoreError(f"hidden states of layer {layer} are asked of a teacher whose hidden size is not known")
        tables[hidden_table(layer)] = _hidden(codec, width)
    return tables


def bytes_per_token(
    request: SignalRequest,
    codec: HiddenCodec,
    width: int | None,
    masked_share: float,
    tokens_per_row: float = 64.0,
) -> dict[str, float]:
    """Bytes on disk that one token costs, by table.

    `masked_share` is the share of the tokens that are masked, `tokens_per_row` their mean number in a row, which
    weighs little. What each file spends on its own description, about a kilobyte, is left out.
    """
    rows_per_token = {"texts": 1 / tokens_per_row, "masked": masked_share}
    return {
        table: rows_per_token.get(table, 1.0) * sum(column.num_bytes for column in columns.values())
        for table, columns in table_columns(request, codec, width).items()
    }


def _distribution(request: SignalRequest) -> dict[str, Column]:
    if request.top_k == 0:
        return {}
    columns = {"topk_ids": Column(_INT32.dtype, request.top_k), "topk_logprobs": Column(_HALF.dtype, request.top_k)}
    return columns | {logsumexp_column(temperature): _FLOAT for temperature in (1.0, *request.temperatures)}


def _hidden(codec: HiddenCodec, width: int) -> dict[str, Column]:
    if codec == "fp16":
        return {"values": Column(_HALF.dtype, width)}
    return {"values": Column(_INT8.dtype, width), "scales": Column(_HALF.dtype, num_blocks(width))}
