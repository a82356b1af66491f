"""Labelled sentences of a task, read from a table: in one language to learn from, in others to be tested on.

Shape legend: E sentences, U units that have a label: the sentences themselves, or their words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from orchestrator.config.base import nearest
from orchestrator.config.corpus import TextSource
from orchestrator.config.transfer import TaskKind, TaskSection
from orchestrator.corpus.read import source_files
from orchestrator.errors import DataError
from orchestrator.records import Int64
from orchestrator.storage import hash_bytes


@dataclass(frozen=True)
class Examples:
    """Sentences of one language; sentence e has the units first[e] : first[e + 1]."""

    words: tuple[tuple[str, ...], ...]  # of a task of kind `sentence` one string, the whole
    label: Int64  # [U] index into the task's labels
    first: Int64  # [E + 1]
    content_hash: str

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Task:
    """A task with its labels: the `num_classes` of the training sentences first, then what only tests have."""

    name: str
    kind: TaskKind
    labels: tuple[str, ...]
    num_classes: int
    source: str
    train: Examples
    test: Mapping[str, Examples]  # language -> sentences


def read_task(section: TaskSection, *, name: str, source: str) -> Task:
    """Every test sentence of every language, and the training sentences of `source`.

    Raises:
        DataError: a file or column is missing, a row does not fit, or the source has no training sentences.
    """
    key = f"transfer.tasks.{name}"
    files = source_files(TextSource(files=section.files), key=f"{key}.files")
    tables = [_read(path, section, key) for path in files]
    train = pa.concat_tables([_where(table, section.train, section) for table in tables])
    test = pa.concat_tables([_where(table, section.test, section) for table in tables])
    learnt = _rows(train, source, section, section.max_train, key)
    if not learnt:
        there = sorted(set(train[section.language].to_pylist()))
        raise DataError(
            f"{key}: there are no training sentences in '{source}'; "
            + (
                f"there are some in {', '.join(map(str, there))}: choose one with --source."
                if there
                else f"{key}.train lets no row through."
            )
        )
    tests = {
        language: _rows(test, language, section, section.max_test, key)
        for language in sorted(set(test[section.language].to_pylist()))
    }
    known = sorted({label for _, labels in learnt for label in labels})
    unknown = {label for rows in tests.values() for _, labels in rows for label in labels} - set(known)
    labels = (*known, *sorted(unknown))
    return Task(
        name=name,
        kind=section.kind,
        labels=labels,
        num_classes=len(known),
        source=source,
        train=_examples(learnt, labels),
        test={language: _examples(rows, labels) for language, rows in tests.items()},
    )


_Row = tuple[tuple[str, ...], tuple[str, ...]]  # words and their labels


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


def _rows(table: pa.Table, language: str, section: TaskSection, most: int | None, key: str) -> list[_Row]:
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


def _examples(rows: Sequence[_Row], labels: Iterable[str]) -> Examples:
    number = {label: index for index, label in enumerate(labels)}
    counts = np.fromiter((len(tags) for _, tags in rows), np.int64, len(rows))
    return Examples(
        words=tuple(words for words, _ in rows),
        label=np.fromiter((number[tag] for _, tags in rows for tag in tags), np.int64, int(counts.sum())),
        first=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        content_hash=hash_bytes(json.dumps(rows, ensure_ascii=False).encode()),
    )
