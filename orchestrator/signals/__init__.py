"""The signal store, format 1: what teachers said, in immutable shards of fixed-width Arrow tables."""

from orchestrator.signals.codecs import BLOCK, decode_hidden, encode_hidden
from orchestrator.signals.draws import decode_draws, encode_draws, first_drawn
from orchestrator.signals.finding import count_receipts, find_store, store_folder
from orchestrator.signals.fingerprint import JSON, Fingerprint
from orchestrator.signals.manifest import Receipt
from orchestrator.signals.rows import Counts
from orchestrator.signals.schema import (
    SENTENCE_VECTORS,
    Column,
    Schema,
    TeacherSizes,
    bytes_per_token,
    drawn_table,
    draws_table,
    head_states_table,
    partition_table,
    rows_of,
    state_table,
    table_columns,
    topk_table,
)
from orchestrator.signals.store import Store
from orchestrator.signals.tables import as_tensor
from orchestrator.signals.topk import decode_topk, encode_topk

__all__ = [
    "BLOCK",
    "JSON",
    "SENTENCE_VECTORS",
    "Column",
    "Counts",
    "Fingerprint",
    "Receipt",
    "Schema",
    "Store",
    "TeacherSizes",
    "as_tensor",
    "bytes_per_token",
    "count_receipts",
    "decode_draws",
    "decode_hidden",
    "decode_topk",
    "drawn_table",
    "draws_table",
    "encode_draws",
    "encode_hidden",
    "encode_topk",
    "find_store",
    "first_drawn",
    "head_states_table",
    "partition_table",
    "rows_of",
    "state_table",
    "store_folder",
    "table_columns",
    "topk_table",
]
