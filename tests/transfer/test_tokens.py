"""Labels stand at the first sub-token of their word, whatever the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from orchestrator.errors import DataError
from orchestrator.transfer.tasks import Examples
from orchestrator.transfer.tokens import encode

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##known", "do", "##g", "##s", "a"]


def examples(*sentences: list[str]) -> Examples:
    counts = [len(sentence) for sentence in sentences]
    first = np.cumsum([0, *counts])
    return Examples(tuple(map(tuple, sentences)), np.arange(sum(counts)), first, "hash")


def wordpieces() -> PreTrainedTokenizerFast:
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({"<pad>": 0} | {sign: number + 1 for number, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def test_the_first_piece_of_each_word() -> None:
    encoded = encode(examples(["a", "dogs", "unknown"], ["dog"]), wordpieces(), kind="words", max_length=20)
    rows = np.split(encoded.ids, encoded.first[1:-1])
    assert [[PIECES[token] for token in row] for row in rows] == [
        ["[CLS]", "a", "do", "##g", "##s", "un", "##known", "[SEP]"],
        ["[CLS]", "do", "##g", "[SEP]"],
    ]
    assert encoded.place.tolist() == [1, 2, 5, 1]


def test_a_word_that_is_cut_or_has_no_piece_has_no_place() -> None:
    encoded = encode(examples(["a", " ", "dogs", "unknown"]), wordpieces(), kind="words", max_length=5)
    assert encoded.place.tolist() == [1, -1, 2, -1]
    batch = encoded.batch(np.array([0]), torch.device("cpu"))
    assert batch.unit.tolist() == [0, 2]
    assert batch.column is not None
    assert batch.column.tolist() == [1, 2]


def test_byte_level_words_keep_the_space_before_them() -> None:
    tokenizer = byte_level()
    encoded = encode(examples(["a", "bc", "d"]), tokenizer, kind="words", max_length=20)
    assert encoded.ids.tolist() == tokenizer("a bc d")["input_ids"]
    assert encoded.place.tolist() == [0, 1, 4]


def test_sentences_are_read_whole() -> None:
    encoded = encode(examples(["a dogs"], ["a"]), wordpieces(), kind="sentence", max_length=20)
    batch = encoded.batch(np.array([1, 0]), torch.device("cpu"))
    assert batch.column is None
    assert batch.unit.tolist() == [1, 0]
    assert batch.attention.sum(dim=1).tolist() == [3, 6]
    assert batch.ids[0].tolist() == [2, PIECES.index("a"), 3, 0, 0, 0]
    assert batch.num_tokens == 9


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "dog", "dogs", "unknown", "x"]), min_size=1, max_size=6), min_size=1, max_size=9
    )
)
def test_test_batches_bring_every_word_once_with_its_own_token(sentences: list[list[str]]) -> None:
    told = examples(*sentences)
    encoded = encode(told, wordpieces(), kind="words", max_length=40)
    begins = {"a": "a", "dog": "do", "dogs": "do", "unknown": "un", "x": "[UNK]"}
    words = [word for sentence in sentences for word in sentence]
    seen: list[int] = []
    for batch in encoded.test_batches(torch.device("cpu")):
        assert batch.column is not None
        at = batch.ids[batch.row, batch.column].tolist()
        assert [PIECES[token] for token in at] == [begins[words[unit]] for unit in batch.unit]
        seen += batch.unit.tolist()
    assert sorted(seen) == list(range(len(words)))


def test_a_tokenizer_without_padding_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.pad_token = None
    with pytest.raises(DataError, match="no padding token"):
        encode(examples(["a"]), tokenizer, kind="words", max_length=8)
