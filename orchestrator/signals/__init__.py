"""The signal store, format 1: what teachers said, in immutable shards of fixed-width Arrow tables."""

from orchestrator.signals.codecs import BLOCK, decode_hidden, encode_hidden
from orchestrator.signals.fingerprint import JSON, Fingerprint
from orchestrator.signals.manifest import Receipt
from orchestrator.signals.rows import Counts
from orchestrator.signals.schema import Column, Schema, bytes_per_token, hidden_table, logsumexp_column, table_columns
from orchestrator.signals.store import Store, count_receipts, find_store, store_folder
from orchestrator.signals.tables import as_tensor

__all__ = [
    "BLOCK",
    "JSON",
    "Column",
    "Counts",
    "Fingerprint",
    "Receipt",
    "Schema",
    "Store",
    "as_tensor",
    "bytes_per_token",
    "count_receipts",
    "decode_hidden",
    "encode_hidden",
    "find_store",
    "hidden_table",
    "logsumexp_column",
    "store_folder",
    "table_columns",
]
