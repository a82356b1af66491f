"""Rows hold every token of every text once, in order, with the right special tokens, words and row ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.corpus import tokenise as module
from orchestrator.corpus.tokenise import CHUNK_BITS, Rows, tokenise, tokens_per_character
from orchestrator.errors import DataError
from tests.corpus.tiny import LETTERS, SPECIAL, tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"

words = st.text(alphabet=LETTERS + "x", min_size=1, max_size=6)
texts = st.lists(st.lists(words, max_size=8).map(" ".join), max_size=12)


def rows_of(many: list[str], *, first_text: int = 0, max_length: int = 8, packing: bool = True) -> Rows:
    return tokenise(many, first_text=first_text, tokenizer=tokenizer(), max_length=max_length, packing=packing)


def row(rows: Rows, number: int) -> tuple[list[int], list[bool], list[bool]]:
    part = slice(rows.first_token[number], rows.first_token[number] + rows.num_tokens[number])
    return rows.ids[part].tolist(), rows.is_special[part].tolist(), rows.begins_word[part].tolist()


def encoded(text: str) -> list[tuple[int, bool]]:
    """(id, begins a word) by hand."""
    out = []
    for word in text.split():
        if "x" in word:
            out.append((SPECIAL.unk, True))
        else:
            out += [(5 + LETTERS.index(c) + (len(LETTERS) if n else 0), n == 0) for n, c in enumerate(word)]
    return out


def test_by_hand() -> None:
    rows = rows_of(["ab c", "", "de", "abcde a b c", "x a"], first_text=100)
    assert [row(rows, n)[0] for n in range(len(rows))] == [
        [2, 5, 11, 7, 8, 14, 3],  # [CLS] a ##b c d ##e [SEP]
        [2, 5, 11, 12, 13, 14, 5, 3],  # a ##b ##c ##d ##e a: the first six of eight
        [2, 6, 7, 3],
        [2, 1, 5, 3],
    ]
    assert rows.row_id.tolist() == [100 << 16, 103 << 16, 103 << 16 | 1, 104 << 16]
    assert row(rows, 0)[1:] == (
        [True, False, False, False, False, False, True],
        [True, True, False, True, True, False, True],
    )
    assert row(rows, 3)[1] == [True, True, False, True]  # unknown is special: not to be predicted
    unpacked = rows_of(["ab c", "", "de"], packing=False)
    assert [row(unpacked, n)[0] for n in range(len(unpacked))] == [[2, 5, 11, 7, 3], [2, 8, 14, 3]]
    assert unpacked.row_id.tolist() == [0, 2 << 16]


@settings(max_examples=60, deadline=None)
@given(many=texts, first_text=st.integers(0, 2**40), max_length=st.integers(3, 12), packing=st.booleans())
def test_rows_hold_every_token_once(many: list[str], first_text: int, max_length: int, packing: bool) -> None:
    rows = rows_of(many, first_text=first_text, max_length=max_length, packing=packing)
    capacity = max_length - 2
    bodies, flags = [], []
    for number in range(len(rows)):
        ids, is_special, begins = row(rows, number)
        assert (ids[0], ids[-1]) == (SPECIAL.cls, SPECIAL.sep)
        assert is_special == [i in SPECIAL.all() for i in ids]
        assert 1 <= len(ids) - 2 <= capacity
        assert begins[1]
        bodies.append(ids[1:-1])
        flags.append(begins[1:-1])
    assert [i for body in bodies for i in body] == [i for text in many for i, _ in encoded(text)]
    assert rows.first_token.tolist() == (np.cumsum(rows.num_tokens) - rows.num_tokens).tolist()
    assert len(set(rows.row_id.tolist())) == len(rows)

    lengths = [len(encoded(text)) for text in many]
    used = 0
    for number in range(len(rows)):
        text, chunk = (rows.row_id[number] >> CHUNK_BITS) - first_text, rows.row_id[number] & 0xFFFF
        assert used == sum(lengths[:text]) + chunk * capacity  # the id says where the row begins
        used += len(bodies[number])
        whole = [begins for one in many for _, begins in encoded(one)][used - len(bodies[number]) : used]
        assert flags[number][1:] == whole[1:]
    assert [array.dtype for array in (rows.row_id, rows.first_token, rows.num_tokens, rows.ids)] == [
        np.int64, np.int64, np.int32, np.int32,
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(many=texts, max_length=st.integers(3, 12))
def test_packing_joins_whole_texts_as_far_as_they_fit(many: list[str], max_length: int) -> None:
    rows = rows_of(many, max_length=max_length)
    lengths = {number: len(encoded(text)) for number, text in enumerate(many) if encoded(text)}
    expected, room = [], 0
    for number, length in lengths.items():
        if length > room:
            expected += [number << 16 | chunk for chunk in range(-(-length // (max_length - 2)))]
            room = max_length - 2 if length <= max_length - 2 else 0
        room -= min(length, room)
    assert rows.row_id.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(many=texts)
def test_calls_of_any_size_give_the_same(many: list[str]) -> None:
    whole = rows_of(many, packing=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TEXTS_PER_CALL", 3)
        parts = rows_of(many, packing=False)
    for name in ("row_id", "first_token", "num_tokens", "ids", "is_special", "begins_word"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_text_that_spells_a_special_token_is_text() -> None:
    assert row(rows_of(["a [SEP] [MASK] b"]), 0)[0] == [2, 5, 1, 1, 6, 3]


def test_no_word_is_longer_than_words_are() -> None:
    rows = rows_of(["abcdeabcd abc"], max_length=20)
    assert row(rows, 0)[2] == [True] * 10 + [True, False, False, True]


def test_a_text_of_too_many_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"text 7 makes more than 65536 rows of 3 tokens; split it"):
        rows_of(["a", "a " * 65_537], first_text=6, max_length=3)
    assert len(rows_of(["a " * 65_536], max_length=3)) == 65_536


def test_no_text_no_row() -> None:
    rows = rows_of(["", "  "])
    assert (len(rows), len(rows.ids)) == (0, 0)


def test_tokens_per_character() -> None:
    assert tokens_per_character(["abc de", "x"], tokenizer=tokenizer()) == 6 / 7


@pytest.mark.shared
@pytest.mark.parametrize(
    ("model", "language"),
    [("multilingual-mlm-12x384", "fi"), ("multilingual-mlm-12x384", "zh"), ("english-mlm-6x384", "en")],
)
def test_real_tokenizers_give_what_they_give_alone(model: str, language: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the data beside the project is not there")
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(SHARED / "models" / model, local_files_only=True)
    many = pq.read_table(SHARED / "data" / "mono" / f"{language}.parquet", columns=["text"])["text"].to_pylist()[:400]
    rows = tokenise(many, first_text=0, tokenizer=real, max_length=510, packing=False)
    plain = real(many)
    assert len(rows) == len(many)
    for number, expected in enumerate(plain["input_ids"]):
        ids, is_special, begins = row(rows, number)
        assert ids == expected
        inner = plain.encodings[number].word_ids[1:-1]
        for place in range(1, len(inner)):
            if inner.count(inner[place]) <= 8:
                assert begins[place + 1] == (inner[place] != inner[place - 1])
        assert all(special == (i in real.all_special_ids) for i, special in zip(ids, is_special, strict=True))
    html = tokenise(["a <mask> b </s> c"], first_text=0, tokenizer=real, max_length=64, packing=False)
    assert set(html.ids[1:-1].tolist()) & set(real.all_special_ids) <= {real.unk_token_id}
