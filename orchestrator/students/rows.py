"""The rows of a window of units, and the order in which a student reads a language: units, windows of them, batches.

Shape legend: R rows, N tokens, M masked positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.records import Array, Int32, Int64, Tables
from orchestrator.students.source import UnitSize

#: A window has at least so many rows where the language has them. They are sorted by length before they are cut into
#: batches, so that little padding is computed.
WINDOW_ROWS = 4096


@dataclass(frozen=True)
class RowIndex:
    """Where every row of a window lies; all arrays are [R]."""

    shard: Int32  # the unit
    first_token: Int64  # in the unit's tables, as are the others
    num_tokens: Int32
    first_masked: Int64
    num_masked: Int32

    def __len__(self) -> int:
        return len(self.shard)


@dataclass(frozen=True)
class Window:
    """Units that are read together: their rows, and their tables by unit."""

    rows: RowIndex
    shards: Mapping[int, Tables]


def index_rows(shards: Mapping[int, Tables]) -> RowIndex:
    """The rows of the units' `texts` tables, in the order of the units."""
    texts = [tables["texts"] for tables in shards.values()]

    def column(name: str) -> Array:
        return np.concatenate([table[name] for table in texts])

    return RowIndex(
        shard=np.repeat(np.asarray([*shards], np.int32), [len(table["row_id"]) for table in texts]),
        first_token=column("first_token").astype(np.int64),
        num_tokens=column("num_tokens").astype(np.int32),
        first_masked=column("first_masked").astype(np.int64),
        num_masked=column("num_masked").astype(np.int32),
    )


def generator(*key: int | str) -> np.random.Generator:
    """Random numbers that depend on `key` alone; names enter by their UTF-8 bytes."""
    words: list[int] = []
    for part in key:
        if isinstance(part, str):
            data = part.encode()
            words += [len(data), *data]
        else:
            words += [part & 0xFFFFFFFF, part >> 32 & 0xFFFFFFFF]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def seed_for(*key: int | str) -> int:
    """A seed below 2⁶² for libraries that want one, from `key` alone."""
    return int(generator(*key).integers(1 << 62))


def epoch_windows(sizes: Sequence[UnitSize], *, seed: int, language: str, epoch: int) -> list[tuple[int, ...]]:
    """The windows of one epoch: every unit exactly once, in random order, cut where a window has rows enough.

    A pure function of its arguments. No student is among them: those that read a language side by side want the same
    units at about the same time.
    """
    windows: list[tuple[int, ...]] = []
    units: list[int] = []
    rows = 0
    for at in generator("units", seed, language, epoch).permutation(len(sizes)):
        units.append(sizes[at].index)
        rows += sizes[at].num_rows
        if rows >= WINDOW_ROWS:
            windows.append(tuple(units))
            units, rows = [], 0
    return [*windows, tuple(units)] if units else windows


def largest_window(sizes: Sequence[UnitSize], *, seed: int, language: str) -> int:
    """Tokens of the largest window of the first epoch."""
    tokens = {size.index: size.num_tokens for size in sizes}
    return max(
        sum(tokens[unit] for unit in units) for units in epoch_windows(sizes, seed=seed, language=language, epoch=0)
    )


def window_batches(
    num_tokens: Int32, *, tokens_per_batch: int, seed: int, student: str, language: str, epoch: int, window: int
) -> list[Int64]:
    """The batches of one window: every row exactly once, rows of similar length together, in random order.

    A pure function of its arguments; `num_tokens` [R] are the lengths of its rows. Each batch is an array of row
    numbers; rows × longest row ≤ `tokens_per_batch` (a single longer row is a batch of its own).
    """
    random = generator("batches", seed, student, language, epoch, window)
    order = random.permutation(len(num_tokens))
    order = order[np.argsort(-num_tokens[order], kind="stable")]
    batches: list[Int64] = []
    at = 0
    while at < len(order):
        size = max(1, tokens_per_batch // int(num_tokens[order[at]]))
        batches.append(order[at : at + size])
        at += size
    return [batches[i] for i in random.permutation(len(batches))]


def language_draws(shares: dict[str, float], *, seed: int, student: str, step: int, count: int) -> Iterator[str]:
    """The languages of the `count` micro-batches of a step, drawn with `shares`; a pure function of its arguments."""
    languages = sorted(shares)
    if len(languages) == 1:
        yield from languages * count
        return
    weights = np.asarray([shares[language] for language in languages])
    random = generator("languages", seed, student, step)
    for choice in random.choice(len(languages), size=count, p=weights / weights.sum()):
        yield languages[int(choice)]
