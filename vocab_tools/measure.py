"""What a vocabulary does to real text, per language: tokens that fall outside, and how far the merged tokenizer is off.

V_t ids of one teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocab_tools.report import TextMeasure
from vocab_tools.union import Int32

if TYPE_CHECKING:
    import tokenizers

_BATCH = 256


def measure_texts(
    texts: Mapping[str, Sequence[str]],
    *,
    routes: Mapping[str, str],
    backends: Mapping[str, tokenizers.Tokenizer],
    maps: Mapping[str, Int32],
    tokenizers_folder: Path,
    merged: str | None,
    teacher_mass: Callable[[str, Sequence[str]], float | None],
) -> tuple[TextMeasure, ...]:
    """Measure each language's texts through the teacher that `routes` names.

    `backends` are the teachers' own tokenizers, `maps` int32 [V_t]. `merged` names the merged tokenizer's folder;
    `teacher_mass(teacher, texts)` gives the mass of the teacher's distribution without student id, or None.
    """
    import tokenizers

    def student(name: str) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_file(str(tokenizers_folder / name / "tokenizer.json"))

    unrouted = student(merged) if merged is not None else None
    measures: list[TextMeasure] = []
    for language, lines in sorted(texts.items()):
        teacher = routes[language]
        tokens, outside = _outside(lines, backends[teacher], maps[teacher])
        measures.append(
            TextMeasure(
                language=language,
                teacher=teacher,
                texts=len(lines),
                tokens=tokens,
                outside_text=outside / max(1, tokens),
                outside_teacher=teacher_mass(teacher, lines),
                merged_disagreement=None if unrouted is None else disagreement(lines, student(teacher), unrouted),
            )
        )
    return tuple(measures)


def disagreement(texts: Sequence[str], routed: tokenizers.Tokenizer, merged: tokenizers.Tokenizer) -> float:
    """Share of the routed tokenizer's tokens (id and where it ends) that the merged one does not produce."""
    total = missed = 0
    for tokenizer in (routed, merged):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    for batch in _batches(texts):
        pairs = zip(
            routed.encode_batch(batch, add_special_tokens=False),
            merged.encode_batch(batch, add_special_tokens=False),
            strict=True,
        )
        for one, other in pairs:
            wanted = {(index, end) for index, (_, end) in zip(one.ids, one.offsets, strict=True)}
            found = {(index, end) for index, (_, end) in zip(other.ids, other.offsets, strict=True)}
            total += len(wanted)
            missed += len(wanted - found)
    return missed / max(1, total)


def _outside(texts: Sequence[str], backend: tokenizers.Tokenizer, table: Int32) -> tuple[int, int]:
    tokens = outside = 0
    for batch in _batches(texts):
        for encoding in backend.encode_batch(batch, add_special_tokens=False):
            ids = np.array(encoding.ids, dtype=np.int64)
            tokens += len(ids)
            outside += int((table[ids] < 0).sum())
    return tokens, outside


def _batches(texts: Sequence[str]) -> list[list[str]]:
    return [list(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
