"""Step: one vocabulary per student, the union of several teachers' or the part of one that its text uses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.setups import StudentSpec
from orchestrator.errors import ConfigError, StoreError
from orchestrator.models.checkpoints import TOKENIZER_FILES, resolve_folder, tokenizer_hash
from orchestrator.run import Run
from orchestrator.signals.counting import token_counts
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.store import Store
from orchestrator.steps.signals import open_stores
from orchestrator.storage import RemotePath, fetch_folder, has_folder, put_folder
from vocab_tools.build import VocabularySource, build_vocabulary
from vocab_tools.errors import VocabularyError
from vocab_tools.mapping import open_vocabulary

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltVocabulary:
    """One vocabulary of the run, for those who want to see it."""

    student: str
    folder: Path
    size: int
    teachers: tuple[str, ...]
    new: bool


def build_vocabularies(run: Run) -> list[BuiltVocabulary]:
    """Build the vocabularies that are missing; the others are opened and their hashes checked."""
    stores = open_stores(run)
    built = []
    for student in run.expanded.students:
        if student.name != student.origin:
            continue
        folder = vocabulary_folder(run, student, stores)
        shared = run.stores / "vocab" / folder.name
        if isinstance(shared, RemotePath) and not folder.exists() and has_folder(shared):
            fetch_folder(shared, folder)
        new = not folder.exists()
        if new:
            try:
                _build(run, student, stores, folder)
            except VocabularyError as error:
                raise StoreError(f"The vocabulary of student '{student.name}' cannot be built: {error}.") from error
        size = _checked(student, folder)
        if isinstance(shared, RemotePath) and not has_folder(shared):
            put_folder(folder, shared)
        if new:
            _log.info("vocabulary of %s: %d tokens in %s", student.name, size, folder)
        built.append(BuiltVocabulary(student.name, folder, size, tuple(sorted(set(student.teachers.values()))), new))
    return built


def vocabulary_folders(run: Run, stores: Mapping[str, Store]) -> dict[str, Path]:
    """Origin of students -> folder of their vocabulary.

    Raises:
        StoreError: one is not built yet, or damaged.
    """
    folders: dict[str, Path] = {}
    for student in run.expanded.students:
        folder = vocabulary_folder(run, student, stores)
        if not folder.exists():
            raise StoreError(
                f"The vocabulary of student '{student.origin}' is not there; run `orch build-vocab` first."
            )
        if student.origin not in folders:
            _checked(student, folder)
        folders[student.origin] = folder
    return folders


def _checked(student: StudentSpec, folder: Path) -> int:
    """The size of a vocabulary, all of whose files are what they were."""
    try:
        vocabulary = open_vocabulary(folder)
        vocabulary.verify()
    except VocabularyError as error:
        raise StoreError(
            f"The vocabulary of student '{student.origin}' is damaged ({error}); remove {folder} and run "
            "`orch build-vocab`."
        ) from error
    return vocabulary.size


def vocabulary_size(run: Run, student: StudentSpec, stores: Mapping[str, Store]) -> int | None:
    """Tokens of a student's vocabulary, None while it is not built; StoreError when it is damaged."""
    if not set(student.teachers.values()) <= stores.keys():
        return None
    folder = vocabulary_folder(run, student, stores)
    try:
        return open_vocabulary(folder).size if folder.exists() else None
    except VocabularyError as error:
        raise StoreError(str(error)) from error


def vocabulary_folder(run: Run, student: StudentSpec, stores: Mapping[str, Store]) -> Path:
    """`vocab/<name>-<hash>`: the hash is of everything that decides the vocabulary."""
    sections = run.config.teachers
    fingerprint = Fingerprint(
        {
            "tokenizers": {
                name: tokenizer_hash(sections[name].tokenizer_path, revision=sections[name].revision)
                for name in sorted(set(student.teachers.values()))
            },
            "stores": {name: stores[name].fingerprint.digest for name in sorted(set(student.teachers.values()))},
            "teachers": dict(sorted(student.teachers.items())),
            "vocabulary": student.template.vocabulary.model_dump(mode="json"),
        }
    )
    return run.vocabularies / f"{student.origin}-{fingerprint.digest}"


def _build(run: Run, student: StudentSpec, stores: dict[str, Store], folder: Path) -> None:
    from orchestrator.models.tokenizers import load_tokenizer

    section = student.template.vocabulary
    sources = []
    for name in sorted(set(student.teachers.values())):
        teacher = run.config.teachers[name]
        languages = tuple(lang for lang, answering in student.teachers.items() if answering == name)
        path = resolve_folder(teacher.tokenizer_path, revision=teacher.revision, patterns=TOKENIZER_FILES)
        size = len(load_tokenizer(str(path)))
        counts = token_counts(stores[name], languages, size=size) if section.keep == "trim" else None
        sources.append(
            VocabularySource(
                name=name, tokenizer=path, counts=counts, min_count=section.min_count, tokenizer_names=languages
            )
        )
    if section.max_size is not None and section.max_size < 16:
        raise ConfigError("student.vocabulary.max_size: fewer than 16 tokens make no vocabulary; raise it.")
    build_vocabulary(sources, folder, merge=section.merge, max_size=section.max_size)
