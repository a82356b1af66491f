"""Texts from files, and how often a tokenizer's ids occur in them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vocab_tools.errors import VocabularyError
from vocab_tools.read import TeacherTokenizer

_BATCH = 512
_EVERY = 20
_MOST_MEASURED = 1000


def read_texts(file: Path) -> list[str]:
    """The texts of a file: its lines that are not blank, or the column `text` of a `.parquet`."""
    try:
        if file.suffix == ".parquet":
            from pyarrow import parquet

            column = parquet.read_table(file, columns=["text"]).column("text").to_pylist()
            texts = [text for text in column if text and text.strip()]
        else:
            texts = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except ImportError as error:
        raise VocabularyError(f"{file} is .parquet, and reading that needs pyarrow; install it") from error
    except (OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise VocabularyError(
            f"{file} cannot be read as UTF-8 text or as .parquet with a column text ({reason})"
        ) from error
    if not texts:
        raise VocabularyError(f"{file} holds no text")
    return texts


def split_for_measure(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts to count and texts to measure on: every 20th is held out for measuring, a thousand at most.

    Of fewer than 20 texts all are counted and all are measured on.
    """
    if len(texts) < _EVERY:
        return list(texts), list(texts)
    counted = [text for place, text in enumerate(texts) if place % _EVERY]
    return counted, list(texts[::_EVERY][:_MOST_MEASURED])


def count_ids(teacher: TeacherTokenizer, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """How often each id of a teacher occurs in texts, special tokens included: int64 [V_teacher]."""
    backend = teacher.backend()
    backend.no_padding()
    backend.no_truncation()
    counts = np.zeros(len(teacher.tokens), dtype=np.int64)
    for start in range(0, len(texts), _BATCH):
        encodings = backend.encode_batch(list(texts[start : start + _BATCH]))
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), dtype=np.int64)
        counts += np.bincount(ids, minlength=len(counts))
    return counts
