"""Sentences of every source as mean-pooled vectors of a system: each distinct sentence is encoded once.

Shape legend: S layers with the embedding output, n sentences, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from orchestrator.evaluation.encode import TokenRows, mean_vectors
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob
from orchestrator.evaluation.loading import load_model, tokenizer_of
from orchestrator.models.tokenizers import special_ids

Vectors: TypeAlias = npt.NDArray[np.float32]  # [S, n, D]
#: (split, language) -> the sentences to be encoded.
Wanted: TypeAlias = Mapping[tuple[str, str], Sequence[str]]


def encode_sentences(
    members: tuple[EvaluatedModel, ...], wanted: Wanted, job: EvaluationJob
) -> dict[tuple[str, str], Vectors]:
    """Vectors [S, n, D] under the same keys, by the first member that serves the language; each is loaded once.

    What no member serves is not in the result.
    """
    vectors: dict[tuple[str, str], Vectors] = {}
    taken: set[str] = set()
    for member in members:
        own = [language for language in member.languages if language not in taken]
        taken.update(own)
        mine = {key: sentences for key, sentences in wanted.items() if key[1] in own}
        if not mine:
            continue
        encoder = load_model(member, job)
        for language in own:
            asked = {key: sentences for key, sentences in mine.items() if key[1] == language}
            number = {
                text: i for i, text in enumerate(dict.fromkeys(text for texts in asked.values() for text in texts))
            }
            if not number:
                continue
            tokenizer = tokenizer_of(member, language)
            encoded = tokenizer([*number], truncation=True, max_length=job.corpus.max_length)
            rows = TokenRows.of(encoded["input_ids"])
            found = mean_vectors(encoder, rows, pad=special_ids(tokenizer).pad)
            for key, texts in asked.items():
                vectors[key] = found[:, [number[text] for text in texts]]
    return vectors
