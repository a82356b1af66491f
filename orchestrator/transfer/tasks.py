"""Labelled sentences of a task, read from a table: in one language to learn from, in others to be tested on.

Shape legend: E sentences, U units that have a label: the sentences themselves, or their words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.config.transfer import TaskKind, TaskSection
from orchestrator.corpus.labelled import LabelledRow, read_labelled
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
    table = read_labelled(section, key=key)
    learnt = table.train_rows(source)
    if not learnt:
        there = table.train_languages()
        raise DataError(
            f"{key}: there are no training sentences in '{source}'; "
            + (
                f"there are some in {', '.join(there)}: choose one with --source."
                if there
                else f"{key}.train lets no row through."
            )
        )
    tests = {language: table.test_rows(language) for language in table.test_languages()}
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


def _examples(rows: Sequence[LabelledRow], labels: Iterable[str]) -> Examples:
    number = {label: index for index, label in enumerate(labels)}
    counts = np.fromiter((len(tags) for _, tags in rows), np.int64, len(rows))
    return Examples(
        words=tuple(words for words, _ in rows),
        label=np.fromiter((number[tag] for _, tags in rows for tag in tags), np.int64, int(counts.sum())),
        first=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        content_hash=hash_bytes(json.dumps(rows, ensure_ascii=False).encode()),
    )
