"""Hold a student tokenizer against its teacher on text: the same cuts and offsets, and ids that are the map's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vocab_tools.read import TeacherTokenizer
from vocab_tools.union import Int32

if TYPE_CHECKING:
    from pathlib import Path

_BATCH = 256


@dataclass(frozen=True)
class Comparison:
    """On `texts` texts of `tokens` tokens: `finer` use a piece that the student lacks, `wrong` differ otherwise."""

    texts: int
    tokens: int
    finer: int
    wrong: int
    example: str | None


def compare(teacher: TeacherTokenizer, student_folder: Path, table: Int32, texts: Sequence[str]) -> Comparison:
    """Tokenise texts with both; `table` is int32 [V_t]. The student is opened as people open it, by AutoTokenizer."""
    from transformers import AutoTokenizer

    student = AutoTokenizer.from_pretrained(student_folder, trust_remote_code=False).backend_tokenizer
    backend = teacher.backend()
    for tokenizer in (backend, student):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    tokens = finer = wrong = 0
    example: str | None = None
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        for text, expected, found in zip(batch, backend.encode_batch(batch), student.encode_batch(batch), strict=True):
            mapped = table[np.array(expected.ids, dtype=np.int64)]
            tokens += len(mapped)
            if (mapped < 0).any():
                finer += 1
            elif mapped.tolist() != found.ids or expected.offsets != found.offsets:
                wrong += 1
                example = example or text
    return Comparison(texts=len(texts), tokens=tokens, finer=finer, wrong=wrong, example=example)
