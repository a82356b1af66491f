"""Format 1 in one place: which tables a request makes, what a row of each is, and its fixed-width columns.

Every signal has a table of its own, so that what is asked for later is new tables beside the old ones. K kept ids, n
draws, D width, D' width of what the decoder reads, V vocabulary, S = ⌈D/64⌉ scales. A table is a matrix: a row of a
column is one value, or one list of fixed size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from orchestrator.errors import StoreError
from orchestrator.records import HiddenCodec, SignalRequest, StateKey
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

#: What a row of a table stands for; `drawn`: one of the distinct ids that were drawn at one position.
RowKind: TypeAlias = Literal["text", "token", "masked", "drawn"]


@dataclass(frozen=True)
class TeacherSizes:
    """What of a teacher's model decides the columns of its signals."""

    width: int  # D of its hidden states
    head_width: int  # D' of what its decoder reads
    vocab_size: int  # V, padding rows included


_INT8, _UINT8, _UINT16, _INT16, _INT32, _INT64 = (
    Column(np.dtype(name)) for name in ("int8", "uint8", "uint16", "int16", "int32", "int64")
)
_HALF, _FLOAT = Column(np.dtype("float16")), Column(np.dtype("float32"))

#: The tables that say which rows, tokens and positions there are, and nothing of what the teacher said.
ROW_TABLES: Schema = {
    "texts": {
        "row_id": _INT64,
        "copy": _INT16,
        "language": _INT16,
        "first_token": _INT64,
        "num_tokens": _INT32,
        "first_masked": _INT64,
        "num_masked": _INT32,
    },
    "tokens": {"input_id": _INT32},
    "masked": {"token": _INT64, "label_id": _INT32},
}

SENTENCE_VECTORS = "sentence_vectors"

_ALL = "_all"
#: n draws give about n^0.8 distinct ids of a small teacher; a surer one gives fewer (50 draws: 19 to 32, or 12).
_DISTINCT_POWER = 0.8


def topk_table(request: SignalRequest) -> str:
    """`topk_064`: the most probable ids and their log-probabilities. `request`: what the store holds, as in all below.

    Where it holds the distribution of every token, not of masked ones alone, the name ends in `_all`.
    """
    return f"topk_{request.top_k:03d}{_suffix(request)}"


def partition_table(request: SignalRequest, temperature: float) -> str:
    """`partition`, `partition_t2`, `partition_t1.5`: log Σ exp(z / T) of the raw logits z."""
    name = "partition" if temperature == 1 else f"partition_t{float(temperature)!r}".removesuffix(".0")
    return name + _suffix(request)


def draws_table(request: SignalRequest) -> str:
    """`draws_050`: how many distinct ids were drawn at each position."""
    return f"draws_{request.draws:03d}{_suffix(request)}"


def drawn_table(request: SignalRequest) -> str:
    """`drawn_050`: the distinct ids of one position after another, with how often each was drawn."""
    return f"drawn_{request.draws:03d}{_suffix(request)}"


def head_states_table(request: SignalRequest) -> str:
    """`head_states`: what the decoder reads."""
    return f"head_states{_suffix(request)}"


def state_table(key: StateKey) -> str:
    """`hidden_06`, `query_06`, `key_06`, `value_06`; `hidden_00` is the embedding output."""
    return f"{key.kind}_{key.layer:02d}"


def rows_of(table: str) -> RowKind:
    """What a row of the table stands for."""
    if table in ("texts", SENTENCE_VECTORS):
        return "text"
    if table.startswith("drawn_"):
        return "drawn"
    if table == "masked":
        return "masked"
    of_a_distribution = table.startswith(("topk_", "partition", "draws_", "head_states"))
    return "masked" if of_a_distribution and not table.endswith(_ALL) else "token"


def table_columns(request: SignalRequest, codec: HiddenCodec, sizes: TeacherSizes | None) -> Schema:
    """Table → column → (dtype, list size) of a shard that holds what `request` asks.

    `sizes` are needed when the request needs a model; else StoreError, as for more draws than can be stored.
    """
    tables = {name: dict(columns) for name, columns in ROW_TABLES.items()}
    if not request.needs_model:
        return tables
    if sizes is None:
        raise StoreError("signals of a model are asked of a teacher that is a tokenizer alone; name its model")
    if request.top_k:
        tables[topk_table(request)] = _topk(request.top_k, sizes.vocab_size)
        for temperature in (1.0, *request.temperatures) if request.temperatures else ():
            tables[partition_table(request, temperature)] = {"logsumexp": _FLOAT}
    if request.draws:
        tables[draws_table(request)] = {"distinct": _UINT8 if request.draws <= 255 else _UINT16}
        tables[drawn_table(request)] = {"code": Column(_UINT8.dtype, code_bytes(sizes.vocab_size, request.draws))}
    if request.head_states:
        tables[head_states_table(request)] = _vectors("fp16", sizes.head_width)
    for key in request.states:
        tables[state_table(key)] = _vectors(codec, sizes.width)
    if request.sentence_vectors:
        tables[SENTENCE_VECTORS] = _vectors("fp16", sizes.width)
    return tables


def code_bytes(vocab_size: int, draws: int) -> int:
    """Bytes that one drawn id and its count take together: 3 when V · n ≤ 2^24, else 4; StoreError beyond 2^32."""
    if draws >= 1 << 16 or vocab_size * draws > 1 << 32:
        raise StoreError(f"{draws} draws at each position are more than can be stored; lower draws")
    return 3 if vocab_size * draws <= 1 << 24 else 4


def high_bytes(k: int, vocab_size: int) -> int:
    """Bytes of what is above the low 16 bits of `k` ids: 0, 1, 2, 4 or 8 bits each; StoreError beyond 2^24 ids."""
    for bits in (0, 1, 2, 4, 8):
        if vocab_size <= 1 << 16 + bits:
            return -(-k * bits // 8)
    raise StoreError(f"a vocabulary of {vocab_size:,} ids is more than can be stored; the most is {1 << 24:,}")


def bytes_per_token(
    request: SignalRequest,
    codec: HiddenCodec,
    sizes: TeacherSizes | None,
    masked_share: float,
    tokens_per_row: float = 64.0,
) -> dict[str, float]:
    """Bytes on disk that one token costs, by table.

    `masked_share` is the share of the tokens that are masked, `tokens_per_row` their mean number in a row, which
    weighs little. What each file spends on its own description, about a kilobyte, is left out; how many distinct ids
    are drawn is an estimate, since it depends on how sure the teacher is.
    """
    positions = 1.0 if request.at_all_tokens else masked_share
    rows_per_token: dict[RowKind, float] = {
        "text": 1 / tokens_per_row,
        "token": 1.0,
        "masked": masked_share,
        "drawn": positions * request.draws**_DISTINCT_POWER,
    }
    return {
        table: rows_per_token[rows_of(table)] * sum(column.num_bytes for column in columns.values())
        for table, columns in table_columns(request, codec, sizes).items()
    }


def _suffix(request: SignalRequest) -> str:
    return _ALL if request.at_all_tokens else ""


def _topk(k: int, vocab_size: int) -> dict[str, Column]:
    num_bytes = high_bytes(k, vocab_size)
    high = {"ids_high": Column(_UINT8.dtype, num_bytes)} if num_bytes else {}
    low, below = Column(_UINT16.dtype, k), Column(_UINT8.dtype, k)
    return {"ids_low": low} | high | {"top": _HALF, "span": _HALF, "below": below}


def _vectors(codec: HiddenCodec, width: int) -> dict[str, Column]:
    if codec == "fp16":
        return {"values": Column(_HALF.dtype, width)}
    return {"values": Column(_INT8.dtype, width), "scales": Column(_HALF.dtype, num_blocks(width))}
