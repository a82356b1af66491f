"""Look into a store: masked tokens with the teacher's best guesses as words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.config.base import nearest
from orchestrator.errors import ConfigError
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.records import Array
from orchestrator.run import Run
from orchestrator.steps.signals import open_stores


@dataclass(frozen=True)
class Guess:
    """One of the teacher's guesses at a masked position."""

    token: str
    probability: float


@dataclass(frozen=True)
class MaskedToken:
    """A masked position: what the student sees there, what stood there, and what the teacher thinks."""

    position: int
    shown: str
    truth: str
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class InspectedRow:
    """One stored row."""

    row_id: int
    copy: int
    text: str
    masked: tuple[MaskedToken, ...]


def inspect_signals(
    run: Run, *, teacher: str | None, language: str | None, first_row: int, num_rows: int, top: int
) -> list[InspectedRow]:
    """Rows `first_row` … of one language as words.

    Raises:
        ConfigError: no such teacher, language or row.
        StoreError: there are no signals, or they are damaged.
    """
    name = teacher or run.teachers[0]
    if name not in run.teachers:
        raise ConfigError(f"--teacher {name}: no such teacher in this setup; {nearest(name, list(run.teachers))}")
    languages = run.teacher_languages(name)
    spoken = language or languages[0]
    if spoken not in languages:
        raise ConfigError(f"--language {spoken}: '{name}' does not answer for it; {nearest(spoken, list(languages))}")
    store = open_stores(run, teachers=[name])[name]
    section = run.config.teachers[name]
    tokenizer = load_tokenizer(section.tokenizer_path, revision=section.revision)
    shown: list[InspectedRow] = []
    skipped = 0
    for unit in store.units:
        if unit.language != spoken:
            continue
        tables = store.shard(unit.index, ["texts", "tokens", "masked"])
        texts, masked = tables["texts"], tables["masked"]
        count = len(texts["row_id"])
        for row in range(max(0, first_row - skipped), count):
            if len(shown) == num_rows:
                return shown
            start, length = int(texts["first_token"][row]), int(texts["num_tokens"][row])
            ids = tables["tokens"]["input_id"][start : start + length]
            begin = int(texts["first_masked"][row])
            positions = range(begin, begin + int(texts["num_masked"][row]))
            shown.append(
                InspectedRow(
                    row_id=int(texts["row_id"][row]),
                    copy=int(texts["copy"][row]),
                    text=tokenizer.decode(ids),
                    masked=tuple(
                        MaskedToken(
                            position=int(masked["token"][place]) - start,
                            shown=tokenizer.convert_ids_to_tokens(int(ids[int(masked["token"][place]) - start])),
                            truth=tokenizer.convert_ids_to_tokens(int(masked["label_id"][place])),
                            guesses=_guesses(masked, place, top, tokenizer.convert_ids_to_tokens),
                        )
                        for place in positions
                    ),
                )
            )
        skipped += count
    if not shown:
        raise ConfigError(
            f"--row {first_row}: '{spoken}' has only {skipped} rows, counted from 0; give a smaller number."
        )
    return shown


def _guesses(masked: Mapping[str, Array], place: int, top: int, word: Callable[[int], str]) -> tuple[Guess, ...]:
    if "topk_ids" not in masked:
        return ()
    ids = masked["topk_ids"][place][:top]
    probabilities = np.exp(masked["topk_logprobs"][place][:top].astype(np.float32))
    return tuple(Guess(word(int(i)), float(p)) for i, p in zip(ids, probabilities, strict=True))
