"""What a union or trim did, in figures: sizes, overlaps, what merged, what fell outside and what embeddings will cost.

V student ids, V_t ids of one teacher.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vocab_tools.canonical import CanonicalToken
from vocab_tools.errors import VocabularyError
from vocab_tools.read import TeacherTokenizer
from vocab_tools.union import Union

WIDTHS = (128, 256, 384, 512, 768, 1024)
_EXAMPLES = 12


@dataclass(frozen=True)
class SourceReport:
    """One teacher. `kept` of its `tokens` have a student id; `share_outside` of the tokens of its corpus have none."""

    name: str
    family: str
    rows: int
    tokens: int
    kept: int
    only_here: int
    counted: int
    share_outside: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PairOverlap:
    """Tokens that two whole vocabularies share as strings and as canonical tokens, special tokens aside."""

    first: str
    second: str
    raw: int
    canonical: int


@dataclass(frozen=True)
class MergedExample:
    """One student token that canonical form made of tokens spelled differently: teacher -> its token."""

    token: str
    spellings: Mapping[str, str]


@dataclass(frozen=True)
class TextMeasure:
    """On the text of one language: shares between 0 and 1; None where it was not measured.

    `outside_text`: tokens without student id. `outside_teacher`: mass of the teacher's distribution at masked positions
    without student id. `merged_disagreement`: tokens of the routed tokenizer that the merged one does not produce.
    """

    language: str
    teacher: str
    texts: int
    tokens: int
    outside_text: float
    outside_teacher: float | None = None
    merged_disagreement: float | None = None


@dataclass(frozen=True)
class VocabularyReport:
    """Everything in report.json."""

    size: int
    merge: str
    sources: tuple[SourceReport, ...]
    pairs: tuple[PairOverlap, ...]
    shared: int  # student tokens of two teachers or more, special tokens aside
    merged_by_form: int  # of these, spelled differently by their teachers
    examples: tuple[MergedExample, ...]
    embedding_parameters: Mapping[int, int]  # width -> V × width
    texts: tuple[TextMeasure, ...] = field(default=())

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


def make_report(
    teachers: Mapping[str, TeacherTokenizer],
    identities: Mapping[str, Sequence[CanonicalToken | None]],
    union: Union,
    counts: Mapping[str, npt.NDArray[np.int64]],
    *,
    merge: str,
    widths: Sequence[int] = WIDTHS,
) -> VocabularyReport:
    """Measure a union against the vocabularies that it was made from."""
    size = len(union.tokens)
    owners = np.zeros(size, dtype=np.int32)
    for table in union.maps.values():
        owners[table[table >= 0]] += 1
    sources = tuple(_source(teachers[name], union.maps[name], owners, counts.get(name)) for name in sorted(teachers))
    raw = {
        name: {t for i, t in enumerate(teacher.tokens) if t and _ordinary(identities[name][i])}
        for name, teacher in teachers.items()
    }
    canonical = {name: {token for token in tokens if _ordinary(token)} for name, tokens in identities.items()}
    pairs = tuple(
        PairOverlap(a, b, raw=len(raw[a] & raw[b]), canonical=len(canonical[a] & canonical[b]))
        for a, b in combinations(sorted(teachers), 2)
    )
    shared = [i for i in np.flatnonzero(owners > 1).tolist() if union.tokens[i].owner != "role"]
    spellings = _spellings(teachers, union, np.array(shared, dtype=np.int64))
    differing = [i for i in shared if len(set(spellings[i].values())) > 1]
    return VocabularyReport(
        size=size,
        merge=merge,
        sources=sources,
        pairs=pairs,
        shared=len(shared),
        merged_by_form=len(differing),
        examples=tuple(MergedExample(union.names[i], spellings[i]) for i in _spread(differing)),
        embedding_parameters=embedding_parameters(size, widths),
    )


def embedding_parameters(size: int, widths: Sequence[int]) -> dict[int, int]:
    """Width -> parameters of an embedding of `size` rows (a tied head shares them)."""
    return {width: size * width for width in sorted(set(widths))}


def write_report(report: VocabularyReport, folder: Path) -> None:
    """Write report.json and report.html, the latter self-contained."""
    from vocab_tools.report_html import render

    (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render(report), encoding="utf-8")


def read_report(folder: Path) -> VocabularyReport:
    """The report that write_report left in a folder."""
    path = folder / "report.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return VocabularyReport(
            **document
            | {
                "sources": tuple(SourceReport(**entry) for entry in document["sources"]),
                "pairs": tuple(PairOverlap(**entry) for entry in document["pairs"]),
                "examples": tuple(MergedExample(**entry) for entry in document["examples"]),
                "embedding_parameters": {int(key): value for key, value in document["embedding_parameters"].items()},
                "texts": tuple(TextMeasure(**entry) for entry in document["texts"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VocabularyError(f"{path} cannot be read ({error}); build the vocabulary again") from error


def _source(
    teacher: TeacherTokenizer,
    table: npt.NDArray[np.int32],
    owners: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64] | None,
) -> SourceReport:
    mapped = table[table >= 0]
    total = 0 if counts is None else int(counts.sum())
    outside = 0 if counts is None else int(counts[: len(table)][table[: len(counts)] < 0].sum())
    return SourceReport(
        name=teacher.name,
        family=f"{teacher.family}, {teacher.marks}",
        rows=len(teacher.tokens),
        tokens=sum(token is not None for token in teacher.tokens),
        kept=len(mapped),
        only_here=int((owners[mapped] == 1).sum()),
        counted=total,
        share_outside=outside / total if total else None,
        notes=teacher.notes,
    )


def _ordinary(token: CanonicalToken | None) -> bool:
    return token is not None and token.owner != "role"


def _spellings(
    teachers: Mapping[str, TeacherTokenizer], union: Union, shared: npt.NDArray[np.int64]
) -> dict[int, dict[str, str]]:
    spellings: dict[int, dict[str, str]] = {index: {} for index in shared.tolist()}
    for name in sorted(teachers):
        tokens = teachers[name].tokens
        for old, new in enumerate(union.maps[name].tolist()):
            if new in spellings:
                spellings[new][name] = tokens[old] or ""
    return spellings


def _spread(indices: Sequence[int]) -> list[int]:
    """A few of many, evenly."""
    step = max(1, len(indices) // _EXAMPLES)
    return list(indices[::step][:_EXAMPLES])
