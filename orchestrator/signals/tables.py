"""One table of a shard as an Arrow IPC file: numpy in without a loop, memory-mapped numpy out without a copy.

A file is one record batch of fixed-width columns without nulls, uncompressed, so that a column is one stretch of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from orchestrator.arrow import read_batches
from orchestrator.errors import StorageError, StoreError
from orchestrator.records import Array
from orchestrator.signals.manifest import FileEntry
from orchestrator.signals.schema import Column
from orchestrator.storage import FileState, Place, file_state, hash_bytes, open_write, use_local

if TYPE_CHECKING:
    import torch

Columns: TypeAlias = Mapping[str, Array]

_MOST_MAPS = 16_384  # kept open in a process; Linux allows 65 530

#: Which files had the right hash: each is hashed once in a process, and anew when it was replaced.
_hashed: set[tuple[FileState, str]] = set()


def write_table(path: Place, columns: Columns, schema: Mapping[str, Column]) -> FileEntry:
    """Write durably, in the order of `schema`, columns that `check_columns` found to fit it."""
    arrays = [_to_arrow(columns[name], column) for name, column in schema.items()]
    batch = pa.record_batch(arrays, schema=arrow_schema(schema))
    with open_write(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return FileEntry(num_rows=batch.num_rows, num_bytes=file.num_bytes, hash=file.hash)


def check_columns(columns: Columns, schema: Mapping[str, Column], *, table: str) -> None:
    """Raise a StoreError that names the first column which has not the type or the shape that format 1 wants."""
    if columns.keys() != schema.keys():
        raise StoreError(f"table '{table}' has columns {', '.join(columns)} where {', '.join(schema)} are wanted")
    num_rows = len(next(iter(columns.values())))
    for name, column in schema.items():
        array = columns[name]
        shape = (num_rows,) if column.size is None else (num_rows, column.size)
        if array.dtype != column.dtype or array.shape != shape:
            raise StoreError(
                f"column '{name}' of table '{table}' is {array.dtype} {list(array.shape)}"
                f" where {column.dtype} {list(shape)} is wanted"
            )


def read_table(path: Place, schema: Mapping[str, Column], entry: FileEntry, *, anew: bool = False) -> Columns:
    """The columns of the file, or of a copy of the object, as read-only views of a memory map.

    Checked in this order: size, hash (once in a process, or `anew`), schema, number of rows, every buffer; a table that
    is open already costs a look at its file's state. Raises StoreError that names the file.
    """
    return use_local(
        path,
        lambda file: _read_file(file, schema, entry, anew=anew),
        num_bytes=entry.num_bytes,
        hash=entry.hash,
        anew=anew,
    )


def _read_file(path: Path, schema: Mapping[str, Column], entry: FileEntry, *, anew: bool) -> Columns:
    state = file_state(path)
    if state is None:
        raise StoreError(damaged(path, "the file is missing"))
    if state.num_bytes != entry.num_bytes:
        raise StoreError(damaged(path, f"{state.num_bytes} bytes where its receipt says {entry.num_bytes}"))
    if anew:
        _hashed.discard((state, entry.hash))
        return _open_table.__wrapped__(state, tuple(schema.items()), entry.hash, entry.num_rows)
    return _open_table(state, tuple(schema.items()), entry.hash, entry.num_rows)


def as_tensor(array: Array) -> torch.Tensor:
    """A torch tensor that shares the memory of a column. Only read it: its file is mapped without write access."""
    import torch

    return torch.from_numpy(np.asarray(_Shared(array)))


def arrow_schema(schema: Mapping[str, Column]) -> pa.Schema:
    """The Arrow schema of a table's file; equality with it is what a reader asks for."""
    return pa.schema([pa.field(name, _arrow_type(column), nullable=False) for name, column in schema.items()])


def damaged(path: Place, reason: str) -> str:
    """The sentence about a damaged file of a shard and its cure."""
    receipt = path.parent.with_suffix(".json")
    return f"{path} is damaged ({reason}); remove {receipt} and run `orch precompute-teacher` again"


@lru_cache(_MOST_MAPS)
def _open_table(state: FileState, schema: tuple[tuple[str, Column], ...], expected_hash: str, num_rows: int) -> Columns:
    path, columns = state.path, dict(schema)
    try:
        with pa.memory_map(str(path)) as file:
            buffer = file.read_buffer()
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read ({error}); check the disk, then run the same command again"
        ) from error
    if (state, expected_hash) not in _hashed and hash_bytes(memoryview(buffer)) != expected_hash:
        raise StoreError(damaged(path, "its content does not fit the hash in its receipt"))
    _hashed.add((state, expected_hash))
    try:
        batch = _only_batch(buffer, arrow_schema(columns), num_rows=num_rows)
        return {name: _to_numpy(batch.column(name), column) for name, column in columns.items()}
    except ValueError as error:
        raise StoreError(damaged(path, str(error).strip())) from error


def _arrow_type(column: Column) -> pa.DataType:
    item = pa.from_numpy_dtype(column.dtype)
    return item if column.size is None else pa.list_(pa.field("item", item, nullable=False), column.size)


def _to_arrow(array: Array, column: Column) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return flat if column.size is None else pa.FixedSizeListArray.from_arrays(flat, type=_arrow_type(column))


def _only_batch(buffer: pa.Buffer, schema: pa.Schema, *, num_rows: int) -> pa.RecordBatch:
    batches = read_batches(buffer, schema)
    if len(batches) != 1:
        raise ValueError(f"{len(batches)} record batches where format 1 has one")
    (batch,) = batches
    if batch.num_rows != num_rows or any(column.null_count for column in batch.columns):
        raise ValueError(f"{batch.num_rows} rows, or nulls among them, where its receipt says {num_rows} rows")
    return batch


def _to_numpy(array: pa.Array, column: Column) -> Array:
    if column.size is None:
        flat: Array = array.to_numpy(zero_copy_only=True)
        return flat
    values: Array = array.values.to_numpy(zero_copy_only=True)
    return values.reshape(len(array), column.size)


class _Shared:
    """Offers an array's memory as writable, since torch warns of read-only arrays even when nobody writes."""

    def __init__(self, array: Array) -> None:
        self._array = array  # keeps the map alive
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}
