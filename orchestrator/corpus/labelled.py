"""Tables with labelled sentences, for fine-tuning and for probes: the rows to learn from and to be tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from orchestrator.config.base import nearest
from orchestrator.config.corpus import TextSource
from orchestrator.config.transfer import TaskSection
from orchestrator.corpus.read import source_files
from orchestrator.errors import DataError

#: Words and their labels; of a task of kind `sentence` the whole sentence and its label, once each.
LabelledRow: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class LabelledTable:
    """The rows of all files of a task that `train` and `test` let through."""

    section: TaskSection
    key: str  # where the configuration names it, for messages
    train: pa.Table
    test: pa.Table

    def train_languages(self) -> list[str]:
        """Those that have rows to learn from, in the order of the alphabet."""
        return _languages(self.train, self.section)

    def test_languages(self) -> list[str]:
        """Those that have rows to be tested on, in the order of the alphabet."""
        return _languages(self.test, self.section)

    def train_rows(self, language: str) -> list[LabelledRow]:
        """At most `max_train` rows of a language, evenly spread; DataError when one does not fit."""
        return _rows(self.train, language, self.section, self.section.max_train, self.key)

    def test_rows(self, language: str) -> list[LabelledRow]:
        """At most `max_test` rows of a language, evenly spread; DataError when one does not fit."""
        return _rows(self.test, language, self.section, self.section.max_test, self.key)


def read_labelled(section: TaskSection, *, key: str) -> LabelledTable:
    """Read the table of a task.

    Raises:
        DataError: a file or a column is missing, or holds something else than the task's kind says.
    """
    files = source_files(TextSource(files=section.files), key=f"{key}.files")
    tables = [_read(path, section, key) for path in files]
    train = pa.concat_tables([_where(table, section.train, section) for table in tables])
    test = pa.concat_tables([_where(table, section.test, section) for table in tables])
    return LabelledTable(section, key, train, test)


def _languages(table: pa.Table, section: TaskSection) -> list[str]:
    return sorted(set(table[section.language].drop_null().to_pylist()))


def _read(path: Path, section: TaskSection, key: str) -> pa.Table:
    """The columns that are asked for, their words as strings, so that files of different origin fit together."""
    try:
        match path.suffix:
            case ".parquet":
                table = pyarrow.parquet.read_table(path)
            case ".jsonl" | ".json":
                table = pyarrow.json.read_json(path)
            case _:
                raise DataError(f"{key}.files: {path} is no table with labels; use .parquet or .jsonl.")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{key}.files: {path} cannot be read: {str(error).splitlines()[0]}.") from None
    used = (section.text, section.label, section.language, *section.train, *section.test)
    for column in used:
        if column not in table.column_names:
            raise DataError(f"{key}: {path} has no column '{column}'; {nearest(column, table.column_names)}")
    nested = {section.text, section.label} if section.kind != "sentence" else set()
    kinds = {column: pa.list_(pa.string()) if column in nested else pa.string() for column in used}
    try:
        return pa.table({column: table[column].cast(kind) for column, kind in kinds.items()})
    except pa.ArrowException:
        what = "lists of words" if nested else "words"
        raise DataError(
            f"{key}: columns '{section.text}' and '{section.label}' of {path} hold something else than {what}; correct "
            f"`kind` ({section.kind}) or the columns."
        ) from None


def _where(table: pa.Table, wanted: Mapping[str, tuple[str, ...]], section: TaskSection) -> pa.Table:
    for column, values in wanted.items():
        table = table.filter(pc.is_in(table[column], value_set=pa.array(values, pa.string())))
    return table.select([section.text, section.label, section.language])


def _rows(table: pa.Table, language: str, section: TaskSection, most: int | None, key: str) -> list[LabelledRow]:
    table = table.filter(pc.equal(table[section.language], language)).drop_null()
    count = min(most or table.num_rows, table.num_rows)
    table = table.take(np.arange(count, dtype=np.int64) * table.num_rows // max(1, count))
    texts, labels = table[section.text].to_pylist(), table[section.label].to_pylist()
    if section.kind == "sentence":
        return [((text,), (label,)) for text, label in zip(texts, labels, strict=True)]
    rows = []
    for words, tags in zip(texts, labels, strict=True):
        if len(words) != len(tags) or None in words or None in tags:
            raise DataError(
                f"{key}: the sentence '{' '.join(map(str, words))[:60]}' ({language}) has {len(words)} words and "
                f"{len(tags)} labels; each word needs one."
            )
        if words:
            rows.append((tuple(words), tuple(tags)))
    return rows
