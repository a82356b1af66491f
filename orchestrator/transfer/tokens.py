"""Sentences as ids, each word at its first sub-token, and batches of them.

Shape legend: E sentences, N tokens of all, U units with a label, B sentences of a batch, L tokens of its longest,
P units of the batch that have a place in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from orchestrator.config.transfer import TaskKind
from orchestrator.errors import DataError
from orchestrator.records import Int32, Int64
from orchestrator.transfer.tasks import Examples

_TEST_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Batch:
    """Some sentences, filled up on the right; a sentence task has `column` None, since the whole row is meant."""

    ids: Tensor  # int64 [B, L]
    attention: Tensor  # int64 [B, L]
    unit: Int64  # [P] which units
    row: Tensor  # int64 [P]
    column: Tensor | None  # int64 [P]

    @property
    def num_tokens(self) -> int:
        """Without padding."""
        return int(self.attention.sum())


@dataclass(frozen=True)
class EncodedExamples:
    """Examples in the ids of one tokenizer, without padding."""

    ids: Int32  # [N]
    first: Int64  # [E + 1] into ids
    unit_first: Int64  # [E + 1] into units
    place: Int64  # [U] of a word's first sub-token in its row, -1 where it has none or was cut; of a sentence 0
    is_sentence: bool
    pad: int

    def batch(self, sentences: Int64, device: torch.device) -> Batch:
        """These sentences in this order."""
        length = self.first[sentences + 1] - self.first[sentences]
        column = np.arange(int(length.max()))
        inside = column < length[:, None]
        at = np.where(inside, self.first[sentences, None] + column, 0)
        ids = np.where(inside, self.ids[at], self.pad).astype(np.int64)
        count = self.unit_first[sentences + 1] - self.unit_first[sentences]
        row = np.repeat(np.arange(len(sentences)), count)
        unit = np.arange(int(count.sum())) + np.repeat(self.unit_first[sentences] - (np.cumsum(count) - count), count)
        has_place = self.place[unit] >= 0
        unit, row = unit[has_place], row[has_place]
        return Batch(
            ids=torch.from_numpy(ids).to(device),
            attention=torch.from_numpy(inside.astype(np.int64)).to(device),
            unit=unit,
            row=torch.from_numpy(row).to(device),
            column=None if self.is_sentence else torch.from_numpy(self.place[unit]).to(device),
        )

    def test_batches(self, device: torch.device) -> Iterator[Batch]:
        """Every sentence once, those of similar length together."""
        order = np.argsort(self.first[:-1] - self.first[1:], kind="stable")  # longest first
        start = 0
        while start < len(order):
            longest = int(self.first[order[start] + 1] - self.first[order[start]])
            count = max(1, _TEST_TOKENS_PER_BATCH // longest)
            yield self.batch(order[start : start + count], device)
            start += count


def encode(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, *, kind: TaskKind, max_length: int
) -> EncodedExamples:
    """Tokenise every sentence, at most `max_length` tokens with special ones.

    Raises:
        DataError: the tokenizer has no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"{tokenizer.name_or_path}: the tokenizer has no padding token; name it in tokenizer_config.json."
        )
    is_sentence = kind == "sentence"
    if is_sentence:
        texts: list[str] | list[list[str]] = [text for (text,) in examples.words]
    else:
        space = " " if _loses_spaces(tokenizer) else ""
        texts = [[words[0], *(f"{space}{word}" for word in words[1:])] for words in examples.words]
    encoded = tokenizer(
        texts,
        is_split_into_words=not is_sentence,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    rows: list[list[int]] = encoded["input_ids"]
    length = np.fromiter(map(len, rows), np.int64, len(rows))
    place = np.zeros(len(examples.label), np.int64)
    if not is_sentence:
        place[:] = -1
        for index in range(len(rows)):
            word = np.array([-1 if w is None else w for w in encoded.word_ids(index)], np.int64)
            words, first = np.unique(word, return_index=True)
            place[examples.first[index] + words[words >= 0]] = first[words >= 0]
    return EncodedExamples(
        ids=np.fromiter((token for row in rows for token in row), np.int32, int(length.sum())),
        first=np.concatenate([np.zeros(1, np.int64), np.cumsum(length)]),
        unit_first=examples.first,
        place=place,
        is_sentence=is_sentence,
        pad=tokenizer.pad_token_id,
    )


def _loses_spaces(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether words that are given one by one are read as if no space stood between them, as byte-level ones are."""
    apart = tokenizer(["a", "a"], is_split_into_words=True)["input_ids"]
    spaced = tokenizer(["a", " a"], is_split_into_words=True)["input_ids"]
    whole = tokenizer("a a")["input_ids"]
    return bool(apart != whole and spaced == whole)
