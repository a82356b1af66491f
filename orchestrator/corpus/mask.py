"""Choose and replace the positions that a masked language model predicts: a pure function of (seed, row id, copy).

Every random number is a hash of (seed, row id, copy, position), never the next one of a stream: how many rows a call
has, in which order, and on how many workers changes nothing. Shape legend: R rows of all copies, N tokens, W words,
M masked positions.
"""

from __future__ import annotations

import numpy as np

from orchestrator.config.corpus import MaskingSection
from orchestrator.corpus.hashing import CHOICE, OTHER_TOKEN, REPLACEMENT, UInt64, random_bits, row_keys
from orchestrator.corpus.tokenise import Bool, Rows
from orchestrator.records import Int32, Int64, MaskedRows, SpecialIds

_POSITION_BITS, _KEY_BITS = 16, 24


def unmasked_rows(rows: Rows, *, language: int) -> MaskedRows:
    """The rows as they are, for what a teacher says of whole sentences: no position is masked."""
    none = np.zeros(0, np.int64)
    return MaskedRows(
        row_id=rows.row_id,
        copy=np.zeros(len(rows), np.int16),
        language=np.full(len(rows), language, np.int16),
        first_token=rows.first_token,
        num_tokens=rows.num_tokens,
        first_masked=np.zeros(len(rows), np.int64),
        num_masked=np.zeros(len(rows), np.int32),
        input_id=rows.ids,
        masked_token=none,
        label_id=none.astype(np.int32),
    )


def mask_rows(
    rows: Rows,
    *,
    language: int,
    special: SpecialIds,
    vocab_ids: Int32,
    masking: MaskingSection,
    seed: int,
    copies: range,
) -> MaskedRows:
    """BERT's masking (Devlin et al. 2019) of `rows`, once for every copy in `copies`; all rows of a copy lie together.

    Of the n positions of a row that are not special, round(probability · n) but at least one are chosen. With
    `whole_word`, whole words are chosen until that number is met as nearly as their lengths allow. Of the chosen tokens
    80 % become [MASK], 10 % a random one of `vocab_ids` (int32 [any], the ordinary ids), 10 % stay as they are.
    """
    assert len(vocab_ids) > 0
    assert int(rows.num_tokens.max(initial=0)) <= 1 << _POSITION_BITS
    num_copies = len(copies)
    assert len(rows) * num_copies < 1 << 64 - _KEY_BITS - _POSITION_BITS
    row_id, num_tokens = np.tile(rows.row_id, num_copies), np.tile(rows.num_tokens, num_copies)
    copy = np.repeat(np.array(copies, np.int16), len(rows))
    labels, is_special = np.tile(rows.ids, num_copies), np.tile(rows.is_special, num_copies)
    begins_word = np.tile(rows.begins_word, num_copies) if masking.whole_word else np.ones(len(labels), np.bool_)

    first_token = _starts(num_tokens)
    row = np.repeat(np.arange(len(row_id)), num_tokens)
    position = np.arange(len(labels)) - first_token[row]
    row_key = row_keys(seed, row_id, copy)
    masked = _choose(row, position, row_key, is_special, begins_word, masking.probability)

    keys, places = row_key[row[masked]], position[masked]
    replacement = random_bits(keys, places, REPLACEMENT)
    other = (random_bits(keys, places, OTHER_TOKEN) >> np.uint64(32)) * np.uint64(len(vocab_ids)) >> np.uint64(32)
    label_id = labels[masked]
    input_id = labels.copy()
    input_id[masked] = np.select(
        [replacement < _share(0.8), replacement < _share(0.9)], [np.int32(special.mask), vocab_ids[other]], label_id
    )
    num_masked = np.bincount(row[masked], minlength=len(row_id)).astype(np.int32)
    return MaskedRows(
        row_id=row_id,
        copy=copy,
        language=np.full(len(row_id), language, np.int16),
        first_token=first_token,
        num_tokens=num_tokens,
        first_masked=_starts(num_masked),
        num_masked=num_masked,
        input_id=input_id,
        masked_token=masked,
        label_id=label_id,
    )


def _choose(row: Int64, position: Int64, row_key: UInt64, is_special: Bool, begins_word: Bool, share: float) -> Int64:
    """Indices [M] of the chosen tokens, ascending: in each row the words with the smallest random keys."""
    free = np.flatnonzero(~is_special)
    if len(free) == 0:
        return free
    wanted = np.maximum(1, np.rint(share * np.bincount(row[free], minlength=len(row_key)))).astype(np.int64)
    # a word also begins where the row changes or a special token stood in between
    begins = begins_word[free] | (np.diff(row[free], prepend=-1) != 0) | (np.diff(free, prepend=-2) != 1)
    start = np.flatnonzero(begins)
    length = np.diff(start, append=len(free))
    too_long = length > 2 * wanted[row[free[start]]]  # even alone it is too much: its tokens count as words
    start = np.flatnonzero(begins | np.repeat(too_long, length))
    length = np.diff(start, append=len(free))
    word_row, word_position = row[free[start]], position[free[start]]

    # One integer sorts words by row, then by random key; the position makes it unique, so that the order is certain.
    key = random_bits(row_key[word_row], word_position, CHOICE) >> np.uint64(64 - _KEY_BITS)
    packed = (word_row.astype(np.uint64) << np.uint64(_KEY_BITS + _POSITION_BITS)) | (key << np.uint64(_POSITION_BITS))
    order = np.argsort(packed | word_position.astype(np.uint64))

    ordered = length[order]
    before = np.cumsum(ordered) - ordered  # tokens of the words before this one; rows stay together in the order, so
    first_word = np.flatnonzero(np.diff(word_row, prepend=-1))  # what earlier rows contribute is taken off again
    before -= np.repeat(before[first_word], np.diff(first_word, append=len(word_row)))
    taken = np.empty(len(order), np.bool_)
    taken[order] = 2 * before + ordered <= 2 * wanted[word_row]  # the middle of the word lies within what is wanted
    return free[np.repeat(taken, length)]


def _starts(counts: Int32) -> Int64:
    ends = np.cumsum(counts, dtype=np.int64)
    return ends - counts


def _share(probability: float) -> np.uint64:
    return np.uint64(int(probability * 2**64))
