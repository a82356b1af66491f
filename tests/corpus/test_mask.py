"""Masking depends on (seed, row id, copy) alone, and does to the positions it chooses what BERT's paper says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.corpus import MaskingSection
from orchestrator.corpus.mask import mask_rows
from orchestrator.corpus.tokenise import Rows
from orchestrator.records import MaskedRows, SpecialIds

SPECIAL = SpecialIds(pad=0, unk=1, mask=4, cls=2, sep=3)
VOCAB = np.arange(5, 1005, dtype=np.int32)


def make_rows(lengths: list[int], *, seed: int = 0, row_id: list[int] | None = None) -> Rows:
    """Rows of [CLS], random ids of which some are unknown, and [SEP]; words of one to four tokens."""
    random = np.random.default_rng(seed)
    num_tokens = np.array(lengths, np.int32) + 2
    first_token = np.cumsum(num_tokens) - num_tokens
    total = int(num_tokens.sum())
    ids = random.choice(VOCAB, total).astype(np.int32)
    ids[random.random(total) < 0.03] = SPECIAL.unk
    ids[first_token], ids[first_token + num_tokens - 1] = SPECIAL.cls, SPECIAL.sep
    return Rows(
        row_id=np.array(row_id if row_id is not None else np.arange(len(lengths)) << 16, np.int64),
        first_token=first_token.astype(np.int64),
        num_tokens=num_tokens,
        ids=ids,
        is_special=np.isin(ids, list(SPECIAL.all())),
        begins_word=random.random(total) < 0.5,
    )


def choose_rows(rows: Rows, order: list[int]) -> Rows:
    tokens = np.concatenate(
        [np.arange(rows.first_token[r], rows.first_token[r] + rows.num_tokens[r]) for r in order] or [np.zeros(0, int)]
    ).astype(np.int64)
    num_tokens = rows.num_tokens[order]
    return Rows(
        row_id=rows.row_id[order],
        first_token=(np.cumsum(num_tokens) - num_tokens).astype(np.int64),
        num_tokens=num_tokens,
        ids=rows.ids[tokens],
        is_special=rows.is_special[tokens],
        begins_word=rows.begins_word[tokens],
    )


def mask(
    rows: Rows, *, copies: range = range(1), seed: int = 0, p: float = 0.15, whole_word: bool = False
) -> MaskedRows:
    masking = MaskingSection(probability=p, whole_word=whole_word)
    return mask_rows(rows, language=3, special=SPECIAL, vocab_ids=VOCAB, masking=masking, seed=seed, copies=copies)


def by_row(masked: MaskedRows) -> dict[tuple[int, int], tuple[list[int], list[int], list[int]]]:
    """(row id, copy) -> its input ids, masked places and labels; checks the offsets on the way."""
    found = {}
    assert masked.first_token.tolist() == (np.cumsum(masked.num_tokens) - masked.num_tokens).tolist()
    assert masked.first_masked.tolist() == (np.cumsum(masked.num_masked) - masked.num_masked).tolist()
    for r in range(len(masked)):
        tokens = slice(masked.first_token[r], masked.first_token[r] + masked.num_tokens[r])
        part = slice(masked.first_masked[r], masked.first_masked[r] + masked.num_masked[r])
        places = masked.masked_token[part] - masked.first_token[r]
        assert np.all(np.diff(places) > 0)
        assert np.all((places >= 0) & (places < masked.num_tokens[r]))
        key = (int(masked.row_id[r]), int(masked.copy[r]))
        assert key not in found
        found[key] = (masked.input_id[tokens].tolist(), places.tolist(), masked.label_id[part].tolist())
    return found


lengths = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths,
    seed=st.integers(-(2**63), 2**64),
    p=st.floats(0.01, 0.9),
    whole_word=st.booleans(),
    data=st.data(),
)
def test_neither_order_nor_company_nor_copies_matter(
    lengths: list[int], seed: int, p: float, whole_word: bool, data: st.DataObject
) -> None:
    rows = make_rows(lengths)
    whole = by_row(mask(rows, copies=range(4), seed=seed, p=p, whole_word=whole_word))
    assert len(whole) == 4 * len(lengths)
    order = data.draw(st.lists(st.integers(0, len(lengths) - 1), unique=True))
    copies = range(*sorted(data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))))
    part = by_row(mask(choose_rows(rows, order), copies=copies, seed=seed, p=p, whole_word=whole_word))
    assert part == {(int(rows.row_id[r]), c): whole[int(rows.row_id[r]), c] for r in order for c in copies}


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, p=st.floats(0.01, 0.9), whole_word=st.booleans(), copies=st.integers(1, 3))
def test_labels_restore_the_original(lengths: list[int], p: float, whole_word: bool, copies: int) -> None:
    rows = make_rows(lengths)
    masked = mask(rows, copies=range(copies), p=p, whole_word=whole_word)
    restored = masked.input_id.copy()
    restored[masked.masked_token] = masked.label_id
    assert np.array_equal(restored, np.tile(rows.ids, copies))
    assert not np.tile(rows.is_special, copies)[masked.masked_token].any()
    assert set(masked.language.tolist()) == {3}
    dtypes = {name: str(getattr(masked, name).dtype) for name in MaskedRows.__dataclass_fields__}
    assert dtypes == {
        "row_id": "int64", "copy": "int16", "language": "int16", "first_token": "int64", "num_tokens": "int32",
        "first_masked": "int64", "num_masked": "int32", "input_id": "int32", "masked_token": "int64",
        "label_id": "int32",
    }  # fmt: skip
    assert all(getattr(masked, name).flags.c_contiguous for name in dtypes)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, p=st.floats(0.01, 0.9))
def test_the_number_of_positions_is_exact(lengths: list[int], p: float) -> None:
    rows = make_rows(lengths)
    free = np.add.reduceat(~rows.is_special, rows.first_token)
    wanted = [0 if n == 0 else max(1, round(p * n)) for n in free.tolist()]
    assert mask(rows, p=p).num_masked.tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, p=st.floats(0.05, 0.6))
def test_whole_words_are_masked_or_left(lengths: list[int], p: float) -> None:
    rows = make_rows(lengths)
    masked = mask(rows, p=p, whole_word=True)
    chosen = np.zeros(len(rows.ids), bool)
    chosen[masked.masked_token] = True
    for r in range(len(rows)):
        first, last = rows.first_token[r], rows.first_token[r] + rows.num_tokens[r]
        free = int((~rows.is_special[first:last]).sum())
        wanted = max(1, round(p * free))
        word: list[int] = []
        longest = 1
        for token in [*range(first, last), -1]:
            ends = token == -1 or rows.is_special[token] or rows.begins_word[token]
            if ends and word:
                if len(word) <= 2 * wanted:
                    assert chosen[word].all() or not chosen[word].any()
                    longest = max(longest, len(word))
                word = []
            if token != -1 and not rows.is_special[token]:
                word.append(token)
        count = int(chosen[first:last].sum())
        assert (count > 0) == (free > 0)
        assert free == 0 or abs(count - wanted) <= longest / 2


def test_a_row_that_is_all_special_has_no_masks() -> None:
    rows = make_rows([3, 0, 5])
    rows.ids[1:4], rows.is_special[1:4] = SPECIAL.unk, True
    assert mask(rows).num_masked.tolist()[:2] == [0, 0]
    assert len(mask(make_rows([]), copies=range(2))) == 0


def test_replacements_are_80_10_10() -> None:
    masked = mask(make_rows([100] * 2000), copies=range(3))
    now = masked.input_id[masked.masked_token]
    n = len(now)
    assert n > 80_000
    is_mask, kept = now == SPECIAL.mask, now == masked.label_id
    other = ~is_mask & ~kept
    for share, expected in ((is_mask.mean(), 0.8), (kept.mean(), 0.1 + 0.1 / 1000), (other.mean(), 0.1 - 0.1 / 1000)):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
    drawn = np.bincount(now[other] - 5, minlength=1000)
    assert len(drawn) == 1000
    assert chi_square(drawn) < 1000 + 5 * np.sqrt(2 * 1000)


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("whole_word", [False, True])
def test_every_position_is_as_likely(whole_word: bool) -> None:
    rows = make_rows([40] * 4000)
    rows.is_special[:] = np.tile([True, *[False] * 40, True], 4000)
    rows.begins_word[:] = True
    masked = mask(rows, copies=range(2), whole_word=whole_word)
    places = masked.masked_token % 42
    assert set(places.tolist()) == set(range(1, 41))
    assert chi_square(np.bincount(places - 1)) < 40 + 5 * np.sqrt(2 * 40)
    pairs = places.reshape(-1, 6)  # round(0.15 · 40) = 6 per row
    together = np.zeros((40, 40))
    for a in range(6):
        for b in range(a + 1, 6):
            np.add.at(together, (pairs[:, a] - 1, pairs[:, b] - 1), 1)
    upper = together[np.triu_indices(40, 1)]  # each pair of positions is as likely as any other
    assert chi_square(upper) < 780 + 5 * np.sqrt(2 * 780)


def test_copies_rows_and_seeds_are_independent() -> None:
    rows = make_rows([100] * 300)

    def chosen(masked: MaskedRows) -> np.ndarray:
        flags = np.zeros(len(masked.input_id), bool)
        flags[masked.masked_token] = True
        return flags

    both = chosen(mask(rows, copies=range(2)))
    first, second = np.split(both, 2)
    other_seed = chosen(mask(rows, seed=1))
    shifted = np.roll(first, 102)  # each row beside the one before it
    free = ~rows.is_special & ~np.roll(rows.is_special, 102)
    for other in (second, other_seed, shifted):
        overlap = (first & other)[free].sum() / first[free].sum()
        assert abs(overlap - 0.15) < 0.03


def test_the_numbers_are_pinned() -> None:
    """A change here makes every stored signal one of another masking: raise the format of the store with it."""
    ids = np.array([2, *range(105, 117), 3, 2, *range(205, 212), 3], np.int32)
    rows = Rows(
        row_id=np.array([5 << 16, 6 << 16 | 1]),
        first_token=np.array([0, 14]),
        num_tokens=np.array([14, 9], np.int32),
        ids=ids,
        is_special=ids < 5,
        begins_word=np.ones(23, np.bool_),
    )
    masked = mask(rows, copies=range(7, 9), seed=44, p=0.5)
    first_copy, second_copy = [4, 5, 6, 9, 10, 11, 16, 17, 19, 21], [3, 5, 8, 9, 10, 12, 15, 17, 18, 20]
    assert masked.masked_token.tolist() == [*first_copy, *(token + 23 for token in second_copy)]
    m = SPECIAL.mask
    replaced = [m, m, 110, m, m, m, m, m, 947, m, m, m, m, 455, m, 962, m, 18, m, m]
    assert masked.input_id[masked.masked_token].tolist() == replaced
