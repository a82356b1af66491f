"""What the commands do: count corpora, build, and put reports into words. No printing here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vocab_tools.build import VocabularySource, build_vocabulary
from vocab_tools.check import compare
from vocab_tools.corpus import count_ids, read_texts, split_for_measure
from vocab_tools.errors import VocabularyError
from vocab_tools.mapping import open_vocabulary
from vocab_tools.mass import has_model
from vocab_tools.read import TeacherTokenizer, name_of, read_tokenizer
from vocab_tools.report import WIDTHS, embedding_parameters, read_report
from vocab_tools.report_text import describe_report

Int64 = npt.NDArray[np.int64]
_ROUTE_SAMPLE = 200


def run_union(
    tokenizers: Sequence[str],
    out: Path,
    *,
    merge: Literal["canonical", "surface"],
    corpus: Sequence[str],
    routes: Sequence[str],
    min_count: int,
    max_size: int | None,
    widths: Sequence[int] | None = None,
) -> str:
    """Build a union and say what came out."""
    names = _names(tokenizers)
    counted, measured = _split(corpus)
    asked = _pairs(routes, "--route LANG=NAME")
    if unknown := sorted(set(asked) - set(counted)) + sorted(set(asked.values()) - set(names)):
        raise VocabularyError(f"--route names '{unknown[0]}', which is no language of --corpus and no tokenizer here")
    teachers = {name: read_tokenizer(where) for name, where in names.items()} if corpus else {}
    owner = {language: asked.get(language) or _least_cut(texts, teachers) for language, texts in counted.items()}
    sources = []
    for name, where in names.items():
        own = tuple(sorted(language for language in counted if owner[language] == name))
        counts = _count(teachers[name], (counted[language] for language in own)) if corpus else None
        sources.append(VocabularySource(name, where, counts, min_count=min_count, tokenizer_names=own))
    build_vocabulary(sources, out, merge=merge, max_size=max_size, texts=measured, widths=widths or WIDTHS)
    return run_show(out)


def run_trim(
    tokenizer: str,
    out: Path,
    *,
    corpus: Sequence[str],
    min_count: int,
    min_frequency: float,
    max_size: int | None,
    teacher_mass: bool | None,
    widths: Sequence[int] | None = None,
) -> str:
    """Build a trim and say what came out; `teacher_mass` None: measured where the folder holds a model."""
    if not corpus:
        raise VocabularyError("trim needs text to know what is used; give --corpus LANG=FILE")
    if teacher_mass and not has_model(tokenizer):
        raise VocabularyError(
            f"--teacher-mass needs a masked language model, and {tokenizer} holds none (config.json and .safetensors)"
        )
    teacher = read_tokenizer(tokenizer)
    can_ask = has_model(tokenizer) and "mask" in teacher.roles and find_spec("torch") is not None
    asks = can_ask if teacher_mass is None else teacher_mass
    counted, measured = _split(corpus)
    counts = _count(teacher, counted.values())
    source = VocabularySource(
        teacher.name,
        tokenizer,
        counts,
        min_count=max(min_count, ceil(min_frequency * int(counts.sum()))),
        tokenizer_names=tuple(sorted(counted)),
    )
    build_vocabulary([source], out, max_size=max_size, texts=measured, teacher_mass=asks, widths=widths or WIDTHS)
    return run_show(out)


def run_show(folder: Path, *, widths: Sequence[int] | None = None) -> str:
    """The report of a vocabulary folder as text; `widths`: what the embedding costs there, else where it was built."""
    open_vocabulary(folder)
    report = read_report(folder)
    if widths:
        report = replace(report, embedding_parameters=embedding_parameters(report.size, widths))
    return describe_report(report)


def run_check(folder: Path, text: Path, *, teachers: Sequence[str]) -> str:
    """Compare every student tokenizer of a folder with its teacher on the texts of a file; raises where they differ."""
    vocabulary = open_vocabulary(folder)
    vocabulary.verify()
    elsewhere = _pairs(teachers, "--teacher NAME=PATH")
    if unknown := sorted(set(elsewhere) - set(vocabulary.names)):
        raise VocabularyError(f"--teacher names '{unknown[0]}'; {folder} has {', '.join(vocabulary.names)}")
    texts = read_texts(text)
    lines = [f"{folder}: {vocabulary.size:,} tokens, {len(vocabulary.tokenizers)} tokenizers, every hash fits"]
    for name in vocabulary.names:
        where = elsewhere.get(name, vocabulary.opened[name])
        teacher = vocabulary.require_teacher(name, where)
        found = compare(teacher, vocabulary.tokenizer_folder(name), vocabulary.map(name), texts)
        if found.wrong:
            raise VocabularyError(
                f"the tokenizer of '{name}' differs from its teacher on {found.wrong} of {found.texts} texts, first on"
                f" {found.example!r}; does the text name a special token that the teacher lacks?"
            )
        finer = f"; {found.finer:,} use tokens that the student lacks and are cut finer" if found.finer else ""
        same = f"{found.texts - found.finer:,} with the same ids and offsets"
        lines.append(f"{name}: {found.texts:,} texts, {found.tokens:,} tokens; {same}{finer}")
    return "\n".join(lines)


def _names(tokenizers: Sequence[str]) -> dict[str, str]:
    """Name of each tokenizer -> where it is."""
    names: dict[str, str] = {}
    for where in tokenizers:
        name = name_of(where)
        if name in names:
            raise VocabularyError(f"two tokenizers are called '{name}'; rename one of the folders")
        names[name] = where
    return names


def _split(corpus: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Texts to count and texts to measure on, by language."""
    counted: dict[str, list[str]] = {}
    measured: dict[str, list[str]] = {}
    for language, file in _pairs(corpus, "--corpus LANG=FILE").items():
        counted[language], measured[language] = split_for_measure(read_texts(Path(file)))
    return counted, measured


def _pairs(options: Sequence[str], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not (key and equals and value):
            raise VocabularyError(f"'{option}' is not of the form {form}")
        if key in pairs:
            raise VocabularyError(f"{form}: '{key}' is given twice")
        pairs[key] = value
    return pairs


def _count(teacher: TeacherTokenizer, texts: Iterable[Sequence[str]]) -> Int64:
    total = np.zeros(len(teacher.tokens), dtype=np.int64)
    for of_language in texts:
        total += count_ids(teacher, of_language)
    return total


def _least_cut(texts: Sequence[str], teachers: Mapping[str, TeacherTokenizer]) -> str:
    """The teacher that needs the fewest tokens for a sample, an unknown token weighing as much as ten."""

    def weight(name: str) -> tuple[int, str]:
        counts = count_ids(teachers[name], texts[:_ROUTE_SAMPLE])
        unknown = teachers[name].roles.get("unk")
        return int(counts.sum()) + (9 * int(counts[unknown]) if unknown is not None else 0), name

    return min(teachers, key=weight)
