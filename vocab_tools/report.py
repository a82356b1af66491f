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

from vocab_tools.canonical import ROLES, CanonicalToken
from vocab_tools.errors import VocabularyError
from vocab_tools.files import read_bytes
from vocab_tools.read import TeacherTokenizer
from vocab_tools.union import Union

WIDTHS = (128, 256, 384, 512, 768, 1024)
_EXAMPLES = 12
_ESCAPES = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r", "\\": r"\\"})


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
class MergedToken:
    """One student token that canonical form made of tokens spelled differently: teacher -> its token."""

    id: int
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
    examples: tuple[MergedToken, ...]  # a few of these, evenly; all of them are in merged.tsv
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
    merged: Sequence[MergedToken],
    widths: Sequence[int] = WIDTHS,
) -> VocabularyReport:
    """Measure a union against the vocabularies that it was made from; `merged` is what find_merged found in it."""
    size = len(union.tokens)
    owners = _count_owners(union)
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
    return VocabularyReport(
        size=size,
        merge=merge,
        sources=sources,
        pairs=pairs,
        shared=int((owners[len(ROLES) :] > 1).sum()),
        merged_by_form=len(merged),
        examples=tuple(merged[:: max(1, len(merged) // _EXAMPLES)][:_EXAMPLES]),
        embedding_parameters=embedding_parameters(size, widths),
    )


def find_merged(teachers: Mapping[str, TeacherTokenizer], union: Union) -> list[MergedToken]:
    """The student tokens whose teachers spell them differently, special tokens aside, by student id."""
    owners = _count_owners(union)
    owners[: len(ROLES)] = 0
    spellings: dict[int, dict[str, str]] = {index: {} for index in np.flatnonzero(owners > 1).tolist()}
    for name in sorted(teachers):
        tokens, table = teachers[name].tokens, union.maps[name]
        old = np.flatnonzero(np.where(table >= 0, owners[table], 0) > 1)
        for index, place in zip(table[old].tolist(), old.tolist(), strict=True):
            spellings[index][name] = tokens[place] or ""
    return [
        MergedToken(index, union.names[index], spelled)
        for index, spelled in spellings.items()
        if len(set(spelled.values())) > 1
    ]


def embedding_parameters(size: int, widths: Sequence[int]) -> dict[int, int]:
    """Width -> parameters of an embedding of `size` rows (a tied head shares them)."""
    return {width: size * width for width in sorted(set(widths))}


def write_report(report: VocabularyReport, merged: Sequence[MergedToken], folder: Path) -> None:
    """Write report.json, report.html (self-contained) and, of a union, merged.tsv: id, token, each teacher's spelling.

    A tab, line break or backslash in a token has a backslash before it: `\\t`.
    """
    from vocab_tools.report_html import render

    if len(report.sources) > 1:
        names = [source.name for source in report.sources]
        rows = (("id", "token", *names), *((str(m.id), m.token, *map(m.spellings.get, names)) for m in merged))
        lines = ("\t".join(cell.translate(_ESCAPES) if cell else "" for cell in row) for row in rows)
        (folder / "merged.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render(report), encoding="utf-8")


def read_report(folder: Path) -> VocabularyReport:
    """The report that write_report left in a folder."""
    path = folder / "report.json"
    try:
        document = json.loads(read_bytes(path))
        return VocabularyReport(
            **document
            | {
                "sources": tuple(SourceReport(**entry) for entry in document["sources"]),
                "pairs": tuple(PairOverlap(**entry) for entry in document["pairs"]),
                "examples": tuple(MergedToken(**entry) for entry in document["examples"]),
                "embedding_parameters": {int(key): value for key, value in document["embedding_parameters"].items()},
                "texts": tuple(TextMeasure(**entry) for entry in document["texts"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VocabularyError(f"{path} cannot be read ({error}); build the vocabulary again") from error


def _count_owners(union: Union) -> npt.NDArray[np.int32]:
    """How many teachers have each student token, int32 [V]."""
    owners = np.zeros(len(union.tokens), dtype=np.int32)
    for table in union.maps.values():
        owners[table[table >= 0]] += 1
    return owners


def _source(
    teacher: TeacherTokenizer,
    table: npt.NDArray[np.int32],
    owners: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int64] | None,
) -> SourceReport:
    mapped = table[table >= 0]
    total = 0 if counts is None else int(counts.sum())
    unread = ("no text of the corpus is read with it; only what must always stay is kept",)
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
        notes=teacher.notes + (unread if counts is not None and not total else ()),
    )


def _ordinary(token: CanonicalToken | None) -> bool:
    return token is not None and token.owner != "role"
