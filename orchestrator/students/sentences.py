"""Parallel sentences for a student: what it knows of each pair, and the teacher's vector of the pivot sentence.

Shape legend: n sentences, B rows, L tokens, N tokens without padding, D width of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from orchestrator.corpus.parallel import ParallelTexts
from orchestrator.corpus.tokenise import CHUNK_BITS, first_rows, tokenise
from orchestrator.errors import StoreError
from orchestrator.records import Array, Int32, Int64
from orchestrator.signals.schema import SENTENCE_VECTORS
from orchestrator.signals.store import Store
from orchestrator.students.batch import Batch, TeacherTargets
from orchestrator.students.rows import language_draws, window_batches

#: language of the sentences -> epoch, 0, index of the next batch; as in the cursor of masked rows
SentencePlaces = dict[str, tuple[int, int, int]]


def sentence_key(text: str, pivot: str) -> str:
    """What the batches of a parallel text with this pivot are called; no language is called so."""
    return f"~{text}~{pivot}"


@dataclass(frozen=True)
class _Sentences:
    """All sentences of one language in student ids; sentence i owns ids[first[i] : first[i] + length[i]]."""

    ids: Int32
    first: Int64  # [n]
    length: Int32  # [n], 0 where there is no token


class SentenceReader:
    """Gathers sentences of any language by their numbers, with the teacher's vectors of the same numbers."""

    def __init__(
        self,
        texts: ParallelTexts,
        store: Store,
        *,
        pivot: str,
        tokenizers: Mapping[str, PreTrainedTokenizerFast],
        max_length: int,
        pad: int,
    ) -> None:
        """`tokenizers`: language -> the student's own tokenizer of it; they decide which languages there are."""
        self.key, self.pivot, self._pad = sentence_key(texts.name, pivot), pivot, pad
        self._vectors = _vectors(store, len(texts))
        self._sentences = {
            language: _tokenised(texts.texts[language], tokenizer, max_length)
            for language, tokenizer in tokenizers.items()
        }

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that are held to the pivot; the pivot itself only where there is no other."""
        others = tuple(sorted(self._sentences.keys() - {self.pivot}))
        return others or (self.pivot,)

    def together(self, language: str) -> tuple[str, ...]:
        """What is read of a pair: the sentence, and the pivot's where the student knows that language (the paper)."""
        return tuple(dict.fromkeys((language, *({self.pivot} & self._sentences.keys()))))

    def lengths(self, language: str) -> tuple[Int64, Int32]:
        """The numbers of the sentences that can be read in all languages of a pair, and the tokens of the longest."""
        lengths = np.stack([self._sentences[one].length for one in self.together(language)])
        usable = np.flatnonzero((lengths > 0).all(0) & np.isfinite(self._vectors[:, 0]))
        return usable, lengths.max(0)[usable].astype(np.int32)

    def batch(self, language: str, numbers: Int64) -> Batch:
        """These sentences in one language."""
        own = self._sentences[language]
        length = own.length[numbers].astype(np.int64)
        longest = int(length.max())
        columns = np.arange(longest)
        inside = columns < length[:, None]
        ids = np.where(inside, own.ids[np.minimum(own.first[numbers][:, None] + columns, len(own.ids) - 1)], self._pad)
        none = torch.zeros(0, dtype=torch.int64)
        nothing = torch.zeros(0, 0)
        positions = torch.from_numpy(np.flatnonzero(inside))
        return Batch(
            language=language,
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            attention_mask=torch.from_numpy(inside.astype(np.int64)),
            token_positions=positions,
            first_tokens=torch.from_numpy(np.cumsum(length) - length),
            masked_positions=none,
            masked_tokens=none,
            labels=none,
            teacher_ids=none,
            known_ids=none,
            at_all_tokens=False,
            targets=TeacherTargets(none.view(0, 0), nothing, none.view(0, 0), none.view(0, 0), nothing, {}),
            states={},
            vectors=torch.from_numpy(self._vectors[numbers].astype(np.float32)),
            text=self.key,
        )


class SentenceStream:
    """The batches of each step of one parallel text: one language with the pivot, drawn evenly; moves its places."""

    def __init__(
        self, reader: SentenceReader, *, student: str, seed: int, tokens_per_batch: int, places: SentencePlaces
    ) -> None:
        """`student`: its origin, which decides the order together with the seed; `places`: where to go on, or {}."""
        self.reader, self._student, self._seed, self._size = reader, student, seed, tokens_per_batch
        start = dict.fromkeys((self._place_of(language) for language in reader.languages), (0, 0, 0))
        self._epochs: dict[str, tuple[int, list[Int64]]] = {}  # language -> the epoch that is read, and its batches
        self.places: SentencePlaces = {name: places.get(name, place) for name, place in start.items()}

    def turn(self, step: int) -> list[Callable[[], Batch]]:
        """A batch of sentences, and one of the same sentences in the pivot where the student knows that; not yet read.

        Moves the place.
        """
        shares = dict.fromkeys(self.reader.languages, 1.0)
        student = f"{self._student}{self.reader.key}"
        (language,) = language_draws(shares, seed=self._seed, student=student, step=step, count=1)
        place = self._place_of(language)
        epoch, _, index = self.places[place]
        batches = self._batches(language, epoch)
        if index >= len(batches):
            epoch, index = epoch + 1, 0
            batches = self._batches(language, epoch)
        self.places[place] = (epoch, 0, index + 1)
        return [partial(self.reader.batch, one, batches[index]) for one in self.reader.together(language)]

    def step(self, step: int) -> list[Batch]:
        """The same, read."""
        return [read() for read in self.turn(step)]

    def _place_of(self, language: str) -> str:
        return f"{self.reader.key}~{language}"

    def _batches(self, language: str, epoch: int) -> list[Int64]:
        if language not in self._epochs or self._epochs[language][0] != epoch:
            self._epochs[language] = (epoch, self._cut(language, epoch))
        return self._epochs[language][1]

    def _cut(self, language: str, epoch: int) -> list[Int64]:
        numbers, lengths = self.reader.lengths(language)
        chosen = window_batches(
            lengths,
            tokens_per_batch=self._size,
            seed=self._seed,
            student=self._student,
            language=self._place_of(language),
            epoch=epoch,
            window=0,
        )
        return [numbers[rows] for rows in chosen]


def _tokenised(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int) -> _Sentences:
    rows = first_rows(tokenise(texts, first_text=0, tokenizer=tokenizer, max_length=max_length, packing=False))
    numbers = rows.row_id >> CHUNK_BITS
    first, length = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int32)
    first[numbers], length[numbers] = rows.first_token, rows.num_tokens
    return _Sentences(rows.ids, first, length)


def _vectors(store: Store, count: int) -> Array:
    """float16 [n, D] by number of the sentence, NaN where the teacher has none."""
    assert store.sizes is not None
    vectors = np.full((count, store.sizes.width), np.nan, np.float16)
    for unit in store.units:
        tables = store.shard(unit.index, ["texts", SENTENCE_VECTORS])
        vectors[tables["texts"]["row_id"].astype(np.int64) >> CHUNK_BITS] = tables[SENTENCE_VECTORS]["values"]
    if not np.isfinite(vectors[:, 0]).any():
        raise StoreError(f"{store.folder} holds no vector of a sentence; give it text with corpus.parallel")
    return vectors
