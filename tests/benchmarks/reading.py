"""Shards as tensors: memory maps of Arrow against Parquet, and the first read with its hash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.models.devices import memory_kept
from orchestrator.signals.schema import Column
from orchestrator.signals.tables import as_tensor, read_table, write_table
from tests.benchmarks.bars import Bar
from tests.benchmarks.pairs import ratios, seconds_of

ROWS, WIDTH = 100_000, 768
SCHEMA = {"values": Column(np.dtype("int8"), WIDTH), "scales": Column(np.dtype("float16"), WIDTH // 64)}


def bars(rounds: int) -> Iterator[Bar]:
    """One layer of a base-size teacher, 100 000 tokens."""
    random = np.random.default_rng(0)
    columns = {
        "values": random.integers(-127, 128, (ROWS, WIDTH), dtype=np.int8),
        "scales": random.random((ROWS, WIDTH // 64)).astype(np.float16),
    }
    size = sum(column.nbytes for column in columns.values())
    with TemporaryDirectory() as folder:
        path, parquet = Path(folder) / "hidden_12.arrow", Path(folder) / "hidden_12.parquet"
        entry = write_table(path, columns, SCHEMA)
        flat = [pa.FixedSizeListArray.from_arrays(column.reshape(-1), column.shape[1]) for column in columns.values()]
        pq.write_table(pa.table(flat, names=list(columns)), parquet)

        def tensors(*, anew: bool = False) -> float:
            found = read_table(path, SCHEMA, entry, anew=anew)
            return sum(float(as_tensor(column)[:: ROWS // 64].sum()) for column in found.values())

        def every_byte() -> int:
            found = read_table(path, SCHEMA, entry)
            return sum(int(as_tensor(column).clone().numel()) for column in found.values())

        def from_parquet() -> float:
            table = pq.read_table(parquet)
            found = [table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in columns]
            return sum(float(values[:: ROWS // 64].sum()) for values in found)

        with memory_kept():  # as in training
            whole, verified, peer = seconds_of(every_byte, lambda: tensors(anew=True), from_parquet, rounds=rounds)
    yield Bar("reading a shard to tensors, warm, every byte copied", "Parquet, same run", ratios(peer, whole), "≥", 8.0)
    yield Bar("the same, GB/s", "", [size / 1e9 / seconds for seconds in whole], "≥", 5.0, unit="GB/s")
    yield Bar("first read, hash and buffers checked", "", [size / 1e9 / s for s in verified], "≥", 3.0, unit="GB/s")
