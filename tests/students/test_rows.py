"""Which rows there are, and in which order a student reads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.signals.store import Store
from orchestrator.students import rows as rows_module
from orchestrator.students.rows import RowIndex, epoch_batches, generator, index_rows, language_draws, seed_for
from tests.students.tiny import World


def index_of(lengths: list[int]) -> RowIndex:
    num_tokens = np.asarray(lengths, np.int32)
    zeros = np.zeros(len(lengths), np.int64)
    return RowIndex(zeros.astype(np.int32), zeros, num_tokens, zeros, zeros.astype(np.int32))


def test_every_row_of_a_language_is_indexed_where_it_lies(world: World) -> None:
    store = world.stores["mixed"]
    for language in ("aa", "bb"):
        index = index_rows(store, language)
        assert len(index) == store.counts()[language].rows
        assert index.total_tokens == store.counts()[language].tokens
        shards = [unit.index for unit in store.units if unit.language == language]
        assert set(index.shard) == set(shards)
        assert len(shards) > 1
        for shard in shards:
            texts = store.shard(shard, ["texts"])["texts"]
            for name in ("first_token", "num_tokens", "first_masked", "num_masked"):
                np.testing.assert_array_equal(getattr(index, name)[index.shard == shard], texts[name])


def test_a_language_without_rows_is_refused_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "units", [])
    with pytest.raises(StoreError, match=r"no row of language 'aa'.*corpus\.languages\.aa"):
        index_rows(world.stores["mixed"], "aa")


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=120),
    tokens_per_batch=st.integers(1, 200),
    window=st.integers(1, 50),
    epoch=st.integers(0, 3),
)
def test_an_epoch_reads_every_row_once_within_the_bound(
    lengths: list[int], tokens_per_batch: int, window: int, epoch: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_WINDOW_ROWS", window)
        batches = epoch_batches(
            index_of(lengths), tokens_per_batch=tokens_per_batch, seed=1, student="s", language="aa", epoch=epoch
        )
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) * longest <= tokens_per_batch or len(batch) == 1


def test_the_order_depends_on_seed_student_language_and_epoch_alone() -> None:
    lengths = list(np.random.default_rng(0).integers(2, 40, 200))
    usual = {"tokens_per_batch": 128, "seed": 1, "student": "s", "language": "aa", "epoch": 0}

    def order(**other: int | str) -> list[list[int]]:
        np.random.seed(7)  # a global state that must not matter
        return [list(batch) for batch in epoch_batches(index_of(lengths), **(usual | other))]  # type: ignore[arg-type]

    assert order() == order()
    for other in ({"seed": 2}, {"student": "t"}, {"language": "bb"}, {"epoch": 1}):
        assert order(**other) != order(), other


def test_rows_of_one_batch_are_of_similar_length() -> None:
    lengths = list(np.random.default_rng(0).integers(2, 100, 4000))
    batches = epoch_batches(index_of(lengths), tokens_per_batch=1000, seed=0, student="s", language="aa", epoch=0)
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
