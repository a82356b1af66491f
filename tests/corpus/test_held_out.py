"""Which texts are set aside depends on the texts alone, and never is one in both splits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.corpus.held_out import HeldOut

texts = st.lists(st.integers(0, 60).map(str), min_size=1, max_size=200)


def divide(stream: list[str], *, share: float, max_texts: int, seed: int = 0) -> tuple[list[str], list[str], int]:
    held_out = HeldOut(seed=seed, share=share, max_texts=max_texts)
    train = list(held_out.train_only(iter(stream)))
    return train, list(held_out.set_aside()), held_out.num_dropped


@settings(max_examples=60, deadline=None)
@given(stream=texts, share=st.floats(0.001, 0.5), max_texts=st.integers(1, 20), seed=st.integers(-5, 5))
def test_no_text_is_in_both_and_none_is_lost(stream: list[str], share: float, max_texts: int, seed: int) -> None:
    train, held_out, num_dropped = divide(stream, share=share, max_texts=max_texts, seed=seed)
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(stream)
    assert not Counter(train) - Counter(stream)
    assert len(train) + len(held_out) + num_dropped == len(stream)
    assert len(set(held_out)) == len(held_out)
    assert 1 <= len(held_out) <= max_texts
    assert held_out == sorted(held_out, key=stream.index)


@settings(max_examples=60, deadline=None)
@given(stream=texts, share=st.floats(0.001, 0.5), max_texts=st.integers(1, 20), data=st.data())
def test_order_and_repetition_do_not_matter(
    stream: list[str], share: float, max_texts: int, data: st.DataObject
) -> None:
    _, held_out, _ = divide(stream, share=share, max_texts=max_texts)
    shuffled = data.draw(st.permutations(stream + stream[:7]))
    assert sorted(divide(shuffled, share=share, max_texts=max_texts)[1]) == sorted(held_out)


def test_the_share_and_the_limit_are_met() -> None:
    stream = [f"text {number}" for number in range(20_000)]
    train, held_out, num_dropped = divide(stream, share=0.05, max_texts=10_000)
    assert abs(len(held_out) / 20_000 - 0.05) < 0.006
    assert num_dropped == 0
    _, few, _ = divide(stream, share=0.05, max_texts=100)
    assert len(few) == 100
    assert set(few) <= set(held_out)
    places = [stream.index(text) for text in few]
    assert abs(sum(places) / 100 - 10_000) < 2_000  # from everywhere, not from the beginning
    assert Counter(train) + Counter(held_out) == Counter(stream)


def test_given_texts_are_kept_out() -> None:
    held_out = HeldOut(seed=3, share=0.0, max_texts=0)
    assert list(held_out.collect(iter(["a", "b", "a"]))) == ["a", "b", "a"]
    assert list(held_out.train_only(iter(["c", "a", "c", "b", "d"]))) == ["c", "c", "d"]
    assert held_out.num_dropped == 2
