"""The one entry: tokenizers in, a vocabulary folder out. One source is trimmed, several are united.

V student ids, V_t ids of one teacher.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vocab_tools.canonical import CanonicalToken, canonical_tokens
from vocab_tools.errors import VocabularyError
from vocab_tools.files import new_folder
from vocab_tools.mapping import MAPPING_FILE, write_mapping
from vocab_tools.read import TeacherTokenizer, read_tokenizer
from vocab_tools.report import VocabularyReport, make_report, write_report
from vocab_tools.tokenizers import Fillers, dump, student_config, student_document
from vocab_tools.trim import Bools, Needs, measure_needs
from vocab_tools.union import Union, unite

Merge = Literal["canonical", "surface"]
MERGED = "merged"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class VocabularySource:
    """One teacher's tokenizer and what a corpus uses of it.

    `counts` is int64 [V_t], how often each id occurs (None: keep everything); ids that occur less than `min_count`
    times are dropped. `tokenizer_names` are further names, such as languages, for the student's tokenizer.
    """

    name: str
    tokenizer: Path | str
    counts: npt.NDArray[np.int64] | None = None
    min_count: int = 1
    tokenizer_names: tuple[str, ...] = ()


def build_vocabulary(
    sources: Sequence[VocabularySource], out: Path, *, merge: Merge = "canonical", max_size: int | None = None
) -> VocabularyReport:
    """Build a student vocabulary of one teacher's (trim) or several teachers' tokenizers (union) in the folder `out`.

    The folder appears complete or not at all; mapping.py names its files. `max_size` keeps the tokens that the corpora
    need most often and asks for counts in every source. The order of `sources` changes nothing: names decide.
    Raises VocabularyError with one sentence.
    """
    out = Path(out)
    _check(sources, max_size)
    teachers = {source.name: _read(source) for source in sources}
    identities = {name: identify(teacher, merge=merge) for name, teacher in sorted(teachers.items())}
    needs = {
        source.name: measure_needs(teachers[source.name], source.counts)
        for source in sources
        if source.counts is not None
    }
    kept = {source.name: _kept(teachers[source.name], needs.get(source.name), source.min_count) for source in sources}
    union = unite(identities, kept=kept, needs=needs, max_size=max_size)
    counts = {source.name: source.counts for source in sources if source.counts is not None}
    report = make_report(teachers, identities, union, counts, merge=merge)
    with new_folder(out, marker=MAPPING_FILE) as folder:
        tokenizer_names = _write(folder, sources, teachers, union)
        fingerprints = {name: teacher.fingerprint() for name, teacher in teachers.items()}
        write_mapping(folder, size=len(union.tokens), merge=merge, teachers=fingerprints, tokenizers=tokenizer_names)
        write_report(report, folder)
    return report


def identify(teacher: TeacherTokenizer, *, merge: Merge) -> list[CanonicalToken | None]:
    """The canonical token of every id of a teacher."""
    return canonical_tokens(
        teacher.tokens,
        owner=teacher.name,
        marks=teacher.marks,
        prefix=teacher.prefix,
        byte_fallback=bool(teacher.spec["model"].get("byte_fallback")),
        roles=teacher.roles,
        reserved=teacher.reserved,
        merge=merge,
    )


def _read(source: VocabularySource) -> TeacherTokenizer:
    """The source's tokenizer, with as many ids as the counts say that the teacher has."""
    teacher = read_tokenizer(source.tokenizer, name=source.name)
    further = 0 if source.counts is None else len(source.counts) - len(teacher.tokens)
    return replace(teacher, tokens=teacher.tokens + (None,) * further)


def _kept(teacher: TeacherTokenizer, needs: Needs | None, min_count: int) -> Bools:
    if needs is None:
        return np.array([token is not None for token in teacher.tokens], dtype=np.bool_)
    return needs.kept(min_count)


def _write(
    folder: Path, sources: Sequence[VocabularySource], teachers: Mapping[str, TeacherTokenizer], union: Union
) -> dict[str, str]:
    (folder / "vocab.json").write_bytes(dump(dict(zip(map(str, range(len(union.names))), union.names, strict=True))))
    (folder / "maps").mkdir()
    fillers = Fillers(union.names)
    owners: dict[str, str] = {}
    for source in sources:
        table = union.maps[source.name]
        np.save(folder / "maps" / f"{source.name}.npy", table)
        first = folder / "tokenizers" / source.name
        first.mkdir(parents=True)
        (first / "tokenizer.json").write_bytes(student_document(teachers[source.name], table, fillers))
        (first / "tokenizer_config.json").write_bytes(dump(student_config(teachers[source.name])))
        owners[source.name] = source.name
        for name in source.tokenizer_names:
            owners[name] = source.name
            if name != source.name:
                shutil.copytree(first, first.with_name(name))
    return owners


def _check(sources: Sequence[VocabularySource], max_size: int | None) -> None:
    if not sources:
        raise VocabularyError("give at least one tokenizer")
    taken: set[str] = set()
    for source in sources:
        for name in {source.name, *source.tokenizer_names}:
            if not _NAME.fullmatch(name):
                raise VocabularyError(f"'{name}' cannot name a folder; use letters, digits, and . _ + - inside")
            if name in taken or name == MERGED:
                raise VocabularyError(f"the name '{name}' is taken; each teacher and language needs one of its own")
            taken.add(name)
        if source.min_count < 1:
            raise VocabularyError(f"min_count of '{source.name}' is {source.min_count}; the least is 1")
        if max_size is not None and source.counts is None:
            raise VocabularyError(f"max_size needs counts of a corpus, and '{source.name}' has none")
