"""Look into a store: masked tokens, and the teacher's best guesses as words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.config.base import nearest
from orchestrator.errors import ConfigError, StoreError
from orchestrator.records import Array, Tables
from orchestrator.run import Run
from orchestrator.signals.schema import rows_of, topk_table
from orchestrator.signals.store import Store
from orchestrator.signals.topk import decode_topk
from orchestrator.steps.signals import known_stores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CHUNK_BITS = 16  # of a row id; above them is the index of its first text


@dataclass(frozen=True)
class Guess:
    """One of the teacher's guesses at a masked position."""

    token: str
    probability: float


@dataclass(frozen=True)
class MaskedToken:
    """A masked position: what the student sees there, what stood there, and what the teacher thinks.

    Where the truth is not among the stored ids, `truth_probability` is the least that is stored.
    """

    shown: str
    truth: str
    guesses: tuple[Guess, ...]
    truth_probability: float
    truth_is_stored: bool


@dataclass(frozen=True)
class InspectedRow:
    """One stored row; `pieces` are the text before, between and after its masked tokens."""

    title: str
    pieces: tuple[str, ...]
    masked: tuple[MaskedToken, ...]


def inspect_signals(
    run: Run, *, teacher: str | None, language: str | None, first_row: int, num_rows: int, top: int
) -> list[InspectedRow]:
    """Rows `first_row` … of one language, of the shards that are there, as words.

    Raises:
        ConfigError: no such teacher, language or row.
        StoreError: there are no signals, or they are damaged.
    """
    from orchestrator.models.tokenizers import load_tokenizer

    name = teacher or run.teachers[0]
    if name not in run.teachers:
        raise ConfigError(f"--teacher {name}: no such teacher in this setup; {nearest(name, list(run.teachers))}")
    languages = run.teacher_languages(name)
    spoken = language or languages[0]
    if spoken not in languages:
        raise ConfigError(f"--language {spoken}: '{name}' does not answer for it; {nearest(spoken, list(languages))}")
    store = known_stores(run).get(name)
    if store is None:
        raise StoreError(f"There are no signals of teacher '{name}' yet; run `orch precompute-teacher` first.")
    section = run.config.teachers[name]
    words = _Words(load_tokenizer(section.tokenizer_path, revision=section.revision))
    shown: list[InspectedRow] = []
    skipped = 0
    topk = topk_table(store.request) if store.request.top_k else None
    for tables, row in _rows(store, spoken, topk):
        if skipped < first_row:
            skipped += 1
            continue
        title = f"{name} · {spoken} · row {first_row + len(shown)}"
        shown.append(_inspect(tables, row, words, topk=topk, title=title, top=top))
        if len(shown) == num_rows:
            break
    if not shown:
        raise ConfigError(
            f"--row {first_row}: {skipped} rows of '{spoken}' are there, counted from 0; give a smaller number."
        )
    return shown


def _rows(store: Store, language: str, topk: str | None) -> Iterator[tuple[Tables, int]]:
    """Every stored row of a language: the tables of its shard, and its place in `texts`."""
    wanted = ["texts", "tokens", "masked", *([] if topk is None else [topk])]
    for unit in store.units:
        if unit.language == language and not {*wanted} & {*store.lacking(unit)}:
            tables = store.shard(unit.index, wanted)
            for row in range(len(tables["texts"]["row_id"])):
                yield tables, row


def _inspect(tables: Tables, row: int, words: _Words, *, topk: str | None, title: str, top: int) -> InspectedRow:
    texts, masked = tables["texts"], tables["masked"]
    start = int(texts["first_token"][row])
    ids = tables["tokens"]["input_id"][start : start + int(texts["num_tokens"][row])].tolist()
    first = int(texts["first_masked"][row])
    places = range(first, first + int(texts["num_masked"][row]))
    positions = [int(masked["token"][place]) - start for place in places]
    text, chunk = divmod(int(texts["row_id"][row]), 1 << _CHUNK_BITS)
    truths = [int(masked["label_id"][place]) for place in places]
    return InspectedRow(
        title=f"{title} (text {text}, part {chunk}, copy {int(texts['copy'][row])})",
        pieces=words.around(ids, dict(zip(positions, truths, strict=True))),
        masked=tuple(
            _masked_token(
                None if topk is None else tables[topk],
                place if topk is None or rows_of(topk) == "masked" else start + position,
                words.of,
                shown=ids[position],
                truth=truth,
                top=top,
            )
            for place, position, truth in zip(places, positions, truths, strict=True)
        ),
    )


def _masked_token(
    topk: Mapping[str, Array] | None, place: int, word: Callable[[int], str], *, shown: int, truth: int, top: int
) -> MaskedToken:
    if topk is None:
        return MaskedToken(word(shown), word(truth), (), float("nan"), False)
    ids, log_probs = (values[0] for values in decode_topk({name: rows[[place]] for name, rows in topk.items()}))
    probabilities = np.exp(log_probs)
    found = np.flatnonzero(ids == truth)
    return MaskedToken(
        shown=word(shown),
        truth=word(truth),
        guesses=tuple(Guess(word(int(i)), float(p)) for i, p in zip(ids[:top], probabilities[:top], strict=True)),
        truth_probability=float(probabilities[found[0]] if len(found) else probabilities.min()),
        truth_is_stored=bool(len(found)),
    )


class _Words:
    """Token ids as a person reads them: `word` begins a word, `-ing` continues one, `␣` is a space alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        known = tokenizer.get_vocab()
        marks = [mark for mark in ("▁", "Ġ") if any(token.startswith(mark) and len(token) > 1 for token in known)]
        self._space = marks[0] if marks else None

    def of(self, token_id: int) -> str:
        """One token."""
        token = str(self._tokenizer.convert_ids_to_tokens(token_id))
        if token_id in self._special:
            return token
        text = self._plain(token)
        return (text if self.begins_word(token_id) else f"-{text}") or "␣"

    def begins_word(self, token_id: int) -> bool:
        """Whether a space or the start of the text comes before it."""
        token = str(self._tokenizer.convert_ids_to_tokens(token_id))
        return not token.startswith("##") if self._space is None else token.startswith(self._space)

    def around(self, ids: list[int], truths: Mapping[int, int]) -> tuple[str, ...]:
        """The text between the masked positions (position -> true id), without the marks of beginning and end."""
        mask = self._tokenizer.mask_token
        kept = [
            (self._tokenizer.mask_token_id if position in truths else token_id)
            for position, token_id in enumerate(ids)
            if position in truths or token_id not in self._special
        ]
        pieces = re.split(rf" ?{re.escape(str(mask))}", self._tokenizer.decode(kept))
        ordered = [truths[position] for position in sorted(truths)]
        spaced = [
            piece + " " if piece and self.begins_word(truth) else piece
            for piece, truth in zip(pieces, ordered, strict=False)
        ]
        return (*spaced, *pieces[len(spaced) :])

    def _plain(self, token: str) -> str:
        if self._space == "Ġ":
            return str(self._tokenizer.convert_tokens_to_string([token])).strip()
        return token.replace("▁", " ").strip() if self._space == "▁" else token.removeprefix("##")
