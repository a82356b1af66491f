"""Sentences that translate one another, read from wide tables: one column per language, one row per meaning."""

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

    With a `key`, a row is what all files say of one value of it, in the order of the first file. What several files say
    is taken from the first of them; a file that has a column of `where` contributes the rows that pass alone.

    Raises:
        DataError: no file, a column that is not there, a key that is there twice, or no row that qualifies.
    """
    tables = [(path, _read(path, source.name)) for path in _paths(source)]
    table = _one_below_another(tables, source) if source.key is None else _joined(tables, source.key, source)
    for column in source.columns.values():
        filled = pc.not_equal(pc.utf8_trim_whitespace(table[column]), "")
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
        {language: table[column].to_pylist() for language, column in source.columns.items()},
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


def _one_below_another(tables: list[tuple[Path, pa.Table]], source: ParallelText) -> pa.Table:
    wanted = [*source.columns.values(), *source.where]
    for path, table in tables:
        for column in wanted:
            _require(column, table, path, source.name)
    return pa.concat_tables([_passing(_words(table, wanted), source) for _, table in tables])


def _joined(tables: list[tuple[Path, pa.Table]], key: str, source: ParallelText) -> pa.Table:
    """The inner join of all files on `key`; it keeps the order of the first."""
    wanted = [*source.columns.values(), *source.where]
    there = sorted({column for _, table in tables for column in table.column_names})
    for column in wanted:
        if column not in there:
            raise DataError(
                f"parallel text '{source.name}': none of its files has a column '{column}'; {nearest(column, there)}"
            )
    joined: pa.Table | None = None
    for path, table in tables:
        _require(key, table, path, source.name)
        own = [column for column in dict.fromkeys(wanted) if column in table.column_names and column != key]
        part = _passing(_words(table, [key, *own]), source).filter(pc.is_valid(pc.field(key)))
        counts = pc.value_counts(part[key])
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            raise DataError(
                f"parallel text '{source.name}': {path} has {twice[0]['counts']} rows whose '{key}' is "
                f"{twice[0]['values']}; a key names one row: choose another column, or fewer rows with `where`."
            )
        if joined is None:
            joined = part
            continue
        at = pc.index_in(joined[key], value_set=part[key].combine_chunks())
        joined, part = joined.filter(pc.is_valid(at)), part.take(at.drop_null())
        for column in own:
            if column not in joined.column_names:
                joined = joined.append_column(column, part[column])
    assert joined is not None, "a source without files is refused before"
    return joined


def _words(table: pa.Table, columns: list[str]) -> pa.Table:
    return pa.table({column: table[column].cast(pa.string()) for column in columns})


def _passing(table: pa.Table, source: ParallelText) -> pa.Table:
    for column, allowed in source.where.items():
        if column in table.column_names:
            table = table.filter(pc.is_in(table[column], value_set=pa.array(allowed, pa.string())))
    return table


def _require(column: str, table: pa.Table, path: Path, name: str) -> None:
    if column not in table.column_names:
        raise DataError(
            f"parallel text '{name}': {path} has no column '{column}'; {nearest(column, table.column_names)}"
        )


def _read(path: Path, name: str) -> pa.Table:
    try:
        match path.suffix:
            case ".parquet":
                return pyarrow.parquet.read_table(path)
            case ".jsonl" | ".json":
                return pyarrow.json.read_json(path)
            case ".tsv":
                quoting = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
                return pyarrow.csv.read_csv(path, parse_options=quoting)
            case ".csv":
                return pyarrow.csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"parallel text '{name}': {path} cannot be read: {str(error).splitlines()[0]}.") from None
    raise DataError(f"parallel text '{name}': {path} is no table that can be read; use {_READERS}.")
