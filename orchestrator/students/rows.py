"""All rows that one student can read of one language, and the order in which it reads them.

Shape legend: R rows, N tokens, M masked positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import StoreError
from orchestrator.records import Array, Int32, Int64
from orchestrator.signals.store import Store

#: Rows of one window are sorted by length before they are cut into batches, so that little padding is computed.
_WINDOW_ROWS = 4096


@dataclass(frozen=True)
class RowIndex:
    """Where every row of a language lies in a store; all arrays are [R]."""

    shard: Int32
    first_token: Int64
    num_tokens: Int32
    first_masked: Int64
    num_masked: Int32

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def total_tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.num_tokens.sum(dtype=np.int64))


def index_rows(store: Store, language: str) -> RowIndex:
    """Read the `texts` tables of a language's shards, in the order of the shards.

    Raises:
        StoreError: a shard of the language is missing or damaged, or there is no row at all.
    """
    shards = [unit.index for unit in store.units if unit.language == language]
    tables = [store.shard(index, ["texts"])["texts"] for index in shards]
    if sum(len(table["row_id"]) for table in tables) == 0:
        raise StoreError(
            f"{store.folder} holds no row of language '{language}'; give it text with corpus.languages.{language}.train"
        )

    def column(name: str) -> Array:
        return np.concatenate([table[name] for table in tables])

    return RowIndex(
        shard=np.repeat(np.asarray(shards, np.int32), [len(table["row_id"]) for table in tables]),
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


def epoch_batches(
    rows: RowIndex, *, tokens_per_batch: int, seed: int, student: str, language: str, epoch: int
) -> list[Int64]:
    """The batches of one epoch: every row exactly once, rows of similar length together, in random order.

    A pure function of its arguments. Each batch is an array of row numbers; rows × longest row ≤ `tokens_per_batch`
    (a single longer row is a batch of its own).
    """
    random = generator("batches", seed, student, language, epoch)
    order = random.permutation(len(rows))
    batches: list[Int64] = []
    for start in range(0, len(order), _WINDOW_ROWS):
        window = order[start : start + _WINDOW_ROWS]
        window = window[np.argsort(-rows.num_tokens[window], kind="stable")]
        at = 0
        while at < len(window):
            size = max(1, tokens_per_batch // int(rows.num_tokens[window[at]]))
            batches.append(window[at : at + size])
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
