"""The one entry: tokenizers in, a vocabulary folder out. One source is trimmed, several are united.

V student ids, V_t ids of one teacher.
"""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vocab_tools.canonical import CanonicalToken, canonical_tokens
from vocab_tools.errors import VocabularyError
from vocab_tools.files import new_folder
from vocab_tools.mapping import MAPPING_FILE, write_mapping
from vocab_tools.mass import has_model, teacher_mass_outside
from vocab_tools.measure import measure_texts
from vocab_tools.merged import merged_config, merged_document
from vocab_tools.read import TeacherTokenizer, read_tokenizer
from vocab_tools.report import WIDTHS, TextMeasure, VocabularyReport, find_merged, make_report, write_report
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
    sources: Sequence[VocabularySource],
    out: Path,
    *,
    merge: Merge = "canonical",
    max_size: int | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
    teacher_mass: bool = False,
    widths: Sequence[int] = WIDTHS,
) -> VocabularyReport:
    """Build a student vocabulary of one teacher's (trim) or several teachers' tokenizers (union) in the folder `out`.

    The folder appears complete or not at all; mapping.py names its files. `max_size` keeps the tokens that the corpora
    need most often and asks for counts in every source. The order of `sources` changes nothing: names decide.

    `texts` are samples on which the result is measured, by source name or one of its `tokenizer_names`; with
    `teacher_mass` a source that is a checkpoint folder is also asked what its model expects there (slow).
    `widths` are those at which the report counts the embedding's parameters.
    Raises VocabularyError with one sentence.
    """
    _check(sources, max_size)
    with _paused_collector():
        return _build(sources, Path(out), merge, max_size, texts or {}, teacher_mass, widths)


def _build(
    sources: Sequence[VocabularySource],
    out: Path,
    merge: Merge,
    max_size: int | None,
    texts: Mapping[str, Sequence[str]],
    teacher_mass: bool,
    widths: Sequence[int],
) -> VocabularyReport:
    routes = {name: source.name for source in sources for name in (source.name, *source.tokenizer_names)}
    if unknown := sorted(set(texts) - set(routes)):
        raise VocabularyError(f"there are texts of '{unknown[0]}', but no tokenizer has that name")
    teachers = {source.name: _read(source) for source in sources}
    identities = {name: identify(teacher, merge=merge) for name, teacher in sorted(teachers.items())}
    counts = {source.name: source.counts for source in sources if source.counts is not None}
    needs = {name: measure_needs(teachers[name], of_teacher) for name, of_teacher in counts.items()}
    kept = {source.name: _kept(teachers[source.name], needs.get(source.name), source.min_count) for source in sources}
    union = unite(identities, kept=kept, needs=needs, max_size=max_size)
    merged = find_merged(teachers, union)
    if merge == "surface":  # overlaps are reported in both forms
        identities = {name: identify(teacher, merge="canonical") for name, teacher in teachers.items()}
    report = make_report(teachers, identities, union, counts, merge=merge, merged=merged, widths=widths)
    with new_folder(out, marker=MAPPING_FILE) as folder:
        _write(folder, sources, teachers, union)
        if len(sources) > 1:
            _write_tokenizer(
                folder / "tokenizers" / MERGED,
                merged_document(union, teachers, counts, surface=merge == "surface"),
                dump(merged_config()),
            )
        write_mapping(
            folder,
            size=len(union.tokens),
            merge=merge,
            teachers={name: teacher.fingerprint() for name, teacher in teachers.items()},
            opened={source.name: _where(source.tokenizer) for source in sources},
            tokenizers=routes | ({MERGED: ""} if len(sources) > 1 else {}),
        )
        if texts:
            paths = {source.name: source.tokenizer for source in sources} if teacher_mass else {}
            report = replace(report, texts=_measure(folder, texts, routes, teachers, union, paths))
        write_report(report, merged, folder)
    return report


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Python's cycle collector would walk millions of tuples again and again, a tenth of the time, and find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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


def _where(tokenizer: Path | str) -> str:
    return str(Path(tokenizer).absolute()) if Path(tokenizer).exists() else str(tokenizer)


def _kept(teacher: TeacherTokenizer, needs: Needs | None, min_count: int) -> Bools:
    if needs is None:
        return np.array([token is not None for token in teacher.tokens], dtype=np.bool_)
    return needs.kept(min_count)


def _write(
    folder: Path, sources: Sequence[VocabularySource], teachers: Mapping[str, TeacherTokenizer], union: Union
) -> None:
    (folder / "vocab.json").write_bytes(dump(dict(zip(map(str, range(len(union.names))), union.names, strict=True))))
    (folder / "maps").mkdir()
    fillers = Fillers(union.names)
    for source in sources:
        teacher, table = teachers[source.name], union.maps[source.name]
        np.save(folder / "maps" / f"{source.name}.npy", table)
        first = folder / "tokenizers" / source.name
        _write_tokenizer(first, student_document(teacher, table, fillers), dump(student_config(teacher)))
        for name in sorted({*source.tokenizer_names} - {source.name}):
            shutil.copytree(first, first.with_name(name))


def _write_tokenizer(folder: Path, document: bytes, config: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(document)
    (folder / "tokenizer_config.json").write_bytes(config)


def _measure(
    folder: Path,
    texts: Mapping[str, Sequence[str]],
    routes: Mapping[str, str],
    teachers: Mapping[str, TeacherTokenizer],
    union: Union,
    paths: Mapping[str, Path | str],
) -> tuple[TextMeasure, ...]:
    def mass(name: str, lines: Sequence[str]) -> float | None:
        if name not in paths or not has_model(paths[name]):
            return None
        return teacher_mass_outside(paths[name], teachers[name], lines, union.maps[name])

    return measure_texts(
        texts,
        routes=routes,
        backends={name: teachers[name].backend() for name in {routes[language] for language in texts}},
        maps=union.maps,
        tokenizers_folder=folder / "tokenizers",
        merged=MERGED if len(teachers) > 1 else None,
        teacher_mass=mass,
    )


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
