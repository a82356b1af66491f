"""Texts to rows of token ids: one row per text or chunk of a text, or neighbouring texts packed into full rows.

Shape legend: T texts, R rows, N tokens of all rows, special tokens included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DataError
from orchestrator.records import Int32, Int64

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Bool: TypeAlias = npt.NDArray[np.bool_]

CHUNK_BITS = 16
#: Texts per call of the tokenizer: enough for all its threads, little enough to bound its memory.
_TEXTS_PER_CALL = 4096
#: A run of more tokens without a word boundary is a script without spaces: each of its tokens counts as a word.
_LONGEST_WORD = 8


@dataclass(frozen=True)
class Rows:
    """R unpadded rows; row r owns tokens[first_token[r] : first_token[r] + num_tokens[r]], and rows lie end to end."""

    row_id: Int64  # [R] (index of the row's first text << 16) | chunk
    first_token: Int64  # [R]
    num_tokens: Int32  # [R] special tokens included
    ids: Int32  # [N]
    is_special: Bool  # [N] never masked: [CLS], [SEP], and ordinary text that became [UNK]
    begins_word: Bool  # [N] a token whose next is not marked is one word with it

    def __len__(self) -> int:
        return len(self.row_id)


def tokenise(
    texts: Sequence[str], *, first_text: int, tokenizer: PreTrainedTokenizerFast, max_length: int, packing: bool
) -> Rows:
    """Rows of at most `max_length` tokens, [CLS] in front and [SEP] at the end where the tokenizer has them.

    `first_text` is the index of texts[0] in its split. A text that does not fit into a row becomes several chunks.
    With `packing`, whole neighbouring texts that fit together share a row. A text without tokens has no row.
    Raises DataError for a text of more than 65 536 chunks.
    """
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    capacity = max_length - (cls_id is not None) - (sep_id is not None)
    assert capacity > 0, "max_length leaves no room for text"
    lengths, body, new_word = _encode(texts, tokenizer)
    first_of_row, text_of_row, chunk = _cut(lengths, capacity, packing)
    if len(chunk) and chunk.max() >= 1 << CHUNK_BITS:
        raise DataError(
            f"text {first_text + int(text_of_row[chunk.argmax()])} makes more than {1 << CHUNK_BITS} rows of "
            f"{max_length} tokens; split it into several texts"
        )

    num_tokens = np.diff(first_of_row, append=len(body)) + (max_length - capacity)
    first_token = np.cumsum(num_tokens) - num_tokens
    last_token = first_token + num_tokens - 1
    total = int(num_tokens.sum())
    ids = np.empty(total, np.int32)
    is_body = np.ones(total, np.bool_)
    for special_id, places in ((cls_id, first_token), (sep_id, last_token)):
        if special_id is not None:
            is_body[places] = False
            ids[places] = special_id
    ids[is_body] = body

    begins_word = np.ones(total, np.bool_)
    new_word[first_of_row] = True  # a chunk may begin inside a word
    begins_word[is_body] = _split_long_words(new_word)
    return Rows(
        row_id=((first_text + text_of_row) << CHUNK_BITS) | chunk,
        first_token=first_token,
        num_tokens=num_tokens.astype(np.int32),
        ids=ids,
        is_special=np.isin(ids, np.array(tokenizer.all_special_ids, np.int32)),
        begins_word=begins_word,
    )


def first_rows(rows: Rows) -> Rows:
    """Of each text its first row alone: how a sentence that is too long is cut."""
    kept = rows.row_id & ((1 << CHUNK_BITS) - 1) == 0
    of_token = np.repeat(kept, rows.num_tokens)
    num_tokens = rows.num_tokens[kept]
    return Rows(
        row_id=rows.row_id[kept],
        first_token=np.cumsum(num_tokens, dtype=np.int64) - num_tokens,
        num_tokens=num_tokens,
        ids=rows.ids[of_token],
        is_special=rows.is_special[of_token],
        begins_word=rows.begins_word[of_token],
    )


def tokens_per_character(texts: Sequence[str], *, tokenizer: PreTrainedTokenizerFast) -> float:
    """Tokens of `texts`, without special ones, per character: what `Corpus.sample` is for."""
    assert texts
    lengths, _, _ = _encode(texts, tokenizer)
    return float(lengths.sum()) / sum(map(len, texts))


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> tuple[Int64, Int32, Bool]:
    """Tokens per text [T], and of all texts end to end: ids, and whether a token begins a word (both [N of bodies])."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # both are stored in some tokenizer.json; the wrapper, too, sets them at every call
    backend.no_padding()
    backend.encode_special_tokens = True  # text that spells '[SEP]' is text
    lengths, ids, words = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        encodings = backend.encode_batch(list(texts[start : start + _TEXTS_PER_CALL]), add_special_tokens=False)
        lengths.append(np.fromiter(map(len, encodings), np.int64, len(encodings)))
        count = int(lengths[-1].sum())
        ids.append(np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, count))
        words.append(np.fromiter(chain.from_iterable(e.word_ids for e in encodings), np.int32, count))

    length, body, word = np.concatenate(lengths), np.concatenate(ids), np.concatenate(words)
    new_word = np.diff(word, prepend=-1) != 0
    new_word[(np.cumsum(length) - length)[length > 0]] = True  # the words of every text count from 0
    if tokenizer.unk_token_id is not None:
        # a vocabulary that lists '</s>' or '<mask>' among its pieces finds them in raw text all the same
        body[np.isin(body, np.array(tokenizer.all_special_ids, np.int32))] = tokenizer.unk_token_id
    return length, body, new_word


def _cut(lengths: Int64, capacity: int, packing: bool) -> tuple[Int64, Int64, Int64]:
    """Cut the stream of all tokens into rows: first token [R] of the row's body, its first text [R], its chunk [R]."""
    text = np.flatnonzero(lengths)
    length = lengths[text]
    if packing:
        leaders = _pack(np.cumsum(length), capacity)
        text = text[leaders]
        length = np.add.reduceat(length, leaders) if len(leaders) else length
    num_chunks = -(-length // capacity)
    owner = np.repeat(np.arange(len(text)), num_chunks)
    chunk = np.arange(len(owner)) - (np.cumsum(num_chunks) - num_chunks)[owner]
    first = (np.cumsum(length) - length)[owner] + chunk * capacity
    return first, text[owner], chunk


def _pack(ends: Int64, capacity: int) -> Int64:
    """Indices of the texts that begin a row when as many whole texts as fit share one; a longer text stands alone."""
    leaders: list[int] = []
    text, num_texts = 0, len(ends)
    while text < num_texts:
        leaders.append(text)
        used = ends[text - 1] if text else 0
        text = max(int(np.searchsorted(ends, used + capacity, side="right")), text + 1)
    return np.array(leaders, np.int64)


def _split_long_words(new_word: Bool) -> Bool:
    """Mark every token of a run that is too long to be a word."""
    starts = np.flatnonzero(new_word)
    length = np.diff(starts, append=len(new_word))
    return new_word | np.repeat(length > _LONGEST_WORD, length)
