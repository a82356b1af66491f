"""Sentences that translate one another, read from a wide table: one column per language, one row per meaning."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from orchestrator.config.base import nearest
from orchestrator.config.corpus import ParallelText
from orchestrator.errors import DataError
from orchestrator.storage import hash_bytes

_READERS = ".parquet, .jsonl, .json, .tsv or .csv"


@dataclass(frozen=True)
class ParallelTexts:
    """language -> n sentences; sentence i means the same in every language."""

    name: str
    texts: dict[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.texts.values())))

    def content_hash(self, language: str) -> str:
        """32 hex digits over the sentences of one language, in their order."""
        return hash_bytes(json.dumps(self.texts[language], ensure_ascii=False).encode())


def read_parallel(source: ParallelText) -> ParallelTexts:
    """The rows of `source` that pass `where` and have text in every column, at most `max_pairs`, evenly spread.

    Raises:
        DataError: no file, a column that is not there, or no row that qualifies.
    """
    columns = [*source.columns.values(), *source.where]
    table = pa.concat_tables([_read(path, columns, source.name) for path in _paths(source)])
    for column, allowed in source.where.items():
        table = table.filter(pc.is_in(table[column].cast(pa.string()), value_set=pa.array(allowed, pa.string())))
    for column in source.columns.values():
        filled = pc.not_equal(pc.utf8_trim_whitespace(table[column].cast(pa.string())), "")
        table = table.filter(filled)  # a null compares to null, which the filter drops
    if table.num_rows == 0:
        raise DataError(
            f"parallel text '{source.name}': no row of {', '.join(source.files)} has text in all of "
            f"{', '.join(source.columns.values())}{' and passes where' if source.where else ''}; correct one of them."
        )
    count = min(source.max_pairs or table.num_rows, table.num_rows)
    table = table.take(np.arange(count) * table.num_rows // count)
    return ParallelTexts(
        source.name,
        {language: table[column].cast(pa.string()).to_pylist() for language, column in source.columns.items()},
    )


def _paths(source: ParallelText) -> list[Path]:
    paths: list[Path] = []
    for pattern in source.files:
        expanded = str(Path(pattern).expanduser())
        found = [expanded] if Path(expanded).is_file() else sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207
        if not found:
            raise DataError(f"parallel text '{source.name}': there is no file {pattern}; correct `files`.")
        paths += map(Path, found)
    return paths


def _read(path: Path, columns: list[str], name: str) -> pa.Table:
    try:
        match path.suffix:
            case ".parquet":
                table = pyarrow.parquet.read_table(path)
            case ".jsonl" | ".json":
                table = pyarrow.json.read_json(path)
            case ".tsv":
                quoting = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
                table = pyarrow.csv.read_csv(path, parse_options=quoting)
            case ".csv":
                table = pyarrow.csv.read_csv(path)
            case _:
                raise DataError(f"parallel text '{name}': {path} is no table that can be read; use {_READERS}.")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"parallel text '{name}': {path} cannot be read: {str(error).splitlines()[0]}.") from None
    for column in columns:
        if column not in table.column_names:
            raise DataError(
                f"parallel text '{name}': {path} has no column '{column}'; {nearest(column, table.column_names)}"
            )
    return table.select(columns)
