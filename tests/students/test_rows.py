"""Which rows there are, and in which order a student reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.records import Int32
from orchestrator.signals.store import Store
from orchestrator.students import rows as rows_module
from orchestrator.students.rows import (
    epoch_windows,
    generator,
    index_rows,
    language_draws,
    seed_for,
    window_batches,
)
from orchestrator.students.source import StoredSource, UnitSize
from tests.students.tiny import World

USUAL = {"tokens_per_batch": 128, "seed": 1, "student": "s", "language": "aa", "epoch": 0, "window": 0}


def sizes_of(rows: Sequence[int]) -> list[UnitSize]:
    return [UnitSize(3 + 2 * number, count, 10 * count) for number, count in enumerate(rows)]


def lengths_of(lengths: Sequence[int]) -> Int32:
    return np.asarray(lengths, np.int32)


def test_every_row_of_a_language_is_indexed_where_it_lies(world: World) -> None:
    store = world.stores["mixed"]
    for language in ("aa", "bb"):
        sizes = StoredSource(store).sizes(language)
        index = index_rows({size.index: store.shard(size.index) for size in sizes})
        counts = store.counts()[language]
        assert len(index) == counts.rows == sum(size.num_rows for size in sizes)
        assert index.num_tokens.sum() == counts.tokens == sum(size.num_tokens for size in sizes)
        shards = [unit.index for unit in store.units if unit.language == language]
        assert list(dict.fromkeys(index.shard)) == shards
        assert len(shards) > 1
        for shard in shards:
            texts = store.shard(shard, ["texts"])["texts"]
            for name in ("first_token", "num_tokens", "first_masked", "num_masked"):
                np.testing.assert_array_equal(getattr(index, name)[index.shard == shard], texts[name])


def test_a_language_without_rows_is_refused_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "units", [])
    with pytest.raises(StoreError, match=r"no row of language 'aa'.*corpus\.languages\.aa"):
        StoredSource(world.stores["mixed"]).sizes("aa")


def test_a_shard_that_is_not_there_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "receipt", lambda _store, _index: None)
    with pytest.raises(StoreError, match=r"shard \d+ of .* is not there.*precompute-teacher"):
        StoredSource(world.stores["mixed"]).sizes("aa")


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.integers(1, 40), min_size=1, max_size=60), least=st.integers(1, 120), epoch=st.integers(0, 3))
def test_windows_share_out_the_units_of_an_epoch(rows: list[int], least: int, epoch: int) -> None:
    sizes = sizes_of(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "WINDOW_ROWS", least)
        windows = epoch_windows(sizes, seed=1, language="aa", epoch=epoch)
    assert sorted(unit for window in windows for unit in window) == [size.index for size in sizes]
    held = {size.index: size.num_rows for size in sizes}
    for window in windows:
        assert sum(held[unit] for unit in window[:-1]) < least  # none is longer than it must be
    for window in windows[:-1]:
        assert sum(held[unit] for unit in window) >= least


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=120),
    tokens_per_batch=st.integers(1, 200),
    epoch=st.integers(0, 3),
)
def test_a_window_is_read_once_within_the_bound(lengths: list[int], tokens_per_batch: int, epoch: int) -> None:
    batches = window_batches(
        lengths_of(lengths),
        tokens_per_batch=tokens_per_batch,
        seed=1,
        student="s",
        language="aa",
        epoch=epoch,
        window=0,
    )
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) * longest <= tokens_per_batch or len(batch) == 1


def test_the_order_of_units_depends_on_seed_language_and_epoch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "WINDOW_ROWS", 300)
    sizes = sizes_of([100] * 30)
    usual = epoch_windows(sizes, seed=1, language="aa", epoch=0)
    np.random.seed(7)  # a global state that must not matter
    assert epoch_windows(sizes, seed=1, language="aa", epoch=0) == usual
    others = [
        epoch_windows(sizes, seed=2, language="aa", epoch=0),
        epoch_windows(sizes, seed=1, language="bb", epoch=0),
        epoch_windows(sizes, seed=1, language="aa", epoch=1),
    ]
    assert all(other != usual for other in others)
    assert usual != [tuple(sorted(window)) for window in usual]


def test_the_order_of_rows_depends_on_the_student_and_the_window_too() -> None:
    lengths = lengths_of(np.random.default_rng(0).integers(2, 40, 200).tolist())

    def order(**other: int | str) -> list[list[int]]:
        np.random.seed(7)  # a global state that must not matter
        return [list(batch) for batch in window_batches(lengths, **(USUAL | other))]  # type: ignore[arg-type]

    assert order() == order()
    for other in ({"seed": 2}, {"student": "t"}, {"language": "bb"}, {"epoch": 1}, {"window": 1}):
        assert order(**other) != order(), other


def test_rows_of_one_batch_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(2, 100, 4000).tolist()
    batches = window_batches(lengths_of(lengths), **(USUAL | {"tokens_per_batch": 1000}))  # type: ignore[arg-type]
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)


def test_languages_are_drawn_by_their_shares_and_by_the_step_alone() -> None:
    shares = {"bb": 0.2, "aa": 0.5, "cc": 0.3}
    drawn = [list(language_draws(shares, seed=3, student="s", step=step, count=4)) for step in range(2000)]
    again = list(language_draws(dict(reversed(shares.items())), seed=3, student="s", step=1234, count=4))
    assert again == drawn[1234]
    flat = [language for step in drawn for language in step]
    for language, share in shares.items():
        assert flat.count(language) / len(flat) == pytest.approx(share, abs=0.02)
    assert list(language_draws({"aa": 1.0}, seed=3, student="s", step=0, count=3)) == ["aa"] * 3
    other = [list(language_draws(shares, seed=3, student="t", step=step, count=4)) for step in range(20)]
    assert other != drawn[:20]


def test_keys_of_random_numbers_cannot_be_confused() -> None:
    keys: list[tuple[int | str, ...]] = [("a", "b"), ("ab",), ("a", 98), (1, 2), (1, 2, 0), (1 << 32,), (1,), (-1,)]
    drawn = {tuple(generator(*key).integers(1 << 60, size=4)) for key in keys}
    assert len(drawn) == len(keys)
    assert seed_for("weights", 0, "ä") == seed_for("weights", 0, "ä")
    assert 0 <= seed_for("weights", 1 << 40, "s") < 1 << 62
