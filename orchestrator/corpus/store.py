"""The texts of a run on disk: Arrow files per language and split, no text in both splits, corpus.json written last."""

from __future__ import annotations

import functools
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from orchestrator import storage
from orchestrator.arrow import read_batches
from orchestrator.config.base import Language
from orchestrator.config.corpus import CorpusSection, LanguageSection, TextSource
from orchestrator.corpus.held_out import HeldOut
from orchestrator.corpus.read import read_texts, source_files
from orchestrator.errors import DataError, StoreError
from orchestrator.storage import Place

Split: TypeAlias = Literal["train", "held_out"]
#: Told the language, the split and how many of its texts are written so far.
Progress: TypeAlias = Callable[[str, Split, int], None]

T = TypeVar("T")

_FORMAT: Literal[1] = 1
_SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False)])
_FILE_BYTES = 64 << 20
_BATCH_BYTES = 1 << 20
_MAX_RECORD_BYTES = 64 << 20
_SAMPLE_RUNS = 32
_OPEN_FILES = 32


_Count: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 62)]
_Hash: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
#: `<language>/<split>/NNNNN.arrow`: a name that never leads out of the corpus.
_FileName: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/(train|held_out)/[0-9]{5,9}\.arrow$")
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SplitInfo(_Record):
    """How much text one split of one language has."""

    num_texts: _Count
    num_characters: _Count


class _File(_Record):
    name: _FileName
    num_texts: _Count
    num_bytes: _Count
    hash: _Hash


class _SplitRecord(SplitInfo):
    hash: _Hash
    files: tuple[_File, ...]


class _LanguageRecord(_Record):
    train: _SplitRecord
    held_out: _SplitRecord
    dropped_from_train: _Count


class _CorpusRecord(_Record):
    format: Literal[1]
    fingerprint: _Hash
    seed: int
    specification: dict[Language, dict[str, object]]
    languages: dict[Language, _LanguageRecord]
    checksum: str | None = None  # of all the above; corpora of before it have none

    def sealed(self) -> _CorpusRecord:
        """The same with its checksum."""
        data = self.model_dump_json(exclude={"checksum"}).encode()
        return self.model_copy(update={"checksum": storage.hash_bytes(data)})

    def problem(self) -> str | None:
        """What in it contradicts itself."""
        if self.checksum is not None and self != self.sealed():
            return "its content does not fit its checksum"
        if self.fingerprint != _fingerprint(self.languages):
            return "its fingerprint is of other texts"
        for name, language in self.languages.items():
            for split, record in (("train", language.train), ("held_out", language.held_out)):
                if any(not file.name.startswith(f"{name}/{split}/") for file in record.files):
                    return f"{name} has files of another language or split"
                if sum(file.num_texts for file in record.files) != record.num_texts:
                    return f"the files of {name} hold another number of texts"
        return None


class Corpus:
    """The texts of every language, read by memory map; opened by `open_corpus`, cheap to send between processes."""

    def __init__(self, folder: Place, record: _CorpusRecord) -> None:
        self.folder = folder
        self._record = record
        self._verified: set[str] = set()
        self._column = functools.lru_cache(maxsize=_OPEN_FILES)(self._open_column)

    def __reduce__(self) -> tuple[Callable[[Place], Corpus], tuple[Place]]:
        return open_corpus, (self.folder,)

    @property
    def fingerprint(self) -> str:
        """Hash of the content: the texts of every language and split in their order, whatever files they came from."""
        return self._record.fingerprint

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, sorted."""
        return tuple(sorted(self._record.languages))

    def info(self, language: str, split: Split) -> SplitInfo:
        """Numbers of texts and characters of one split."""
        record = self._split(language, split)
        return SplitInfo(num_texts=record.num_texts, num_characters=record.num_characters)

    def dropped_from_train(self, language: str) -> int:
        """How many training texts were left out because the same text is held out."""
        return self._language(language).dropped_from_train

    def texts(self, language: str, split: Split, first: int, count: int) -> list[str]:
        """Texts `first` … `first + count - 1` of a split; fewer when it ends before.

        Raises StoreError when a file is missing or damaged (each is hashed at its first use in a process).
        """
        assert first >= 0
        assert count >= 0
        files = self._split(language, split).files
        starts = [0, *accumulate(file.num_texts for file in files)]
        end = min(first + count, starts[-1])
        texts: list[str] = []
        while first < end:
            index = bisect_right(starts, first) - 1
            texts += self._column(files[index]).slice(first - starts[index], end - first).to_pylist()
            first = starts[index + 1]
        return texts

    def sample(self, language: str, count: int) -> list[str]:
        """At most `count` training texts, always the same: runs of neighbours, evenly spread over the split."""
        num_texts = self.info(language, "train").num_texts
        count = min(count, num_texts)
        runs = min(count, _SAMPLE_RUNS)
        bounds = [(run * count // runs, (run + 1) * count // runs) for run in range(runs)]
        # run r takes texts from the r-th of equally long stretches, so that runs never overlap
        return [
            text
            for run, (begin, end) in enumerate(bounds)
            for text in self.texts(language, "train", run * num_texts // runs, end - begin)
        ]

    def verify(self) -> list[str]:
        """Every missing or damaged file, as one sentence each."""
        splits = (
            split for language in self._record.languages.values() for split in (language.train, language.held_out)
        )
        problems = (self._problem(file) for split in splits for file in split.files)
        return [problem for problem in problems if problem is not None]

    def _language(self, language: str) -> _LanguageRecord:
        if language not in self._record.languages:
            raise DataError(f"the corpus has no language '{language}'; it has {', '.join(self.languages)}")
        return self._record.languages[language]

    def _split(self, language: str, split: Split) -> _SplitRecord:
        record = self._language(language)
        return record.train if split == "train" else record.held_out

    def _problem(self, file: _File) -> str | None:
        """What is wrong with a file, read from its first to its last byte where it lies."""
        path = self.folder / file.name
        what = "missing"
        if path.is_file():
            with suppress(StoreError):
                if self._use(file, storage.hash_file, anew=True) == file.hash:
                    return None
            what = "damaged"
        return f"{path} of the corpus is {what}; delete {self.folder} and run again to build it anew"

    def _open_column(self, file: _File) -> pa.ChunkedArray:
        if file.name not in self._verified and isinstance(self.folder, Path):
            problem = self._problem(file)
            if problem is not None:
                raise StoreError(problem)
            self._verified.add(file.name)
        path = self.folder / file.name
        try:
            column = self._use(file, _read_column)
            if len(column) != file.num_texts:
                raise ValueError(f"{len(column)} texts where corpus.json says {file.num_texts}")
        except ValueError as error:
            raise StoreError(
                f"{path} of the corpus is damaged ({error}); delete {self.folder} and run again to build it anew"
            ) from error
        return column

    def _use(self, file: _File, use: Callable[[Path], T], *, anew: bool = False) -> T:
        return storage.use_local(self.folder / file.name, use, num_bytes=file.num_bytes, hash=file.hash, anew=anew)


def build_corpus(section: CorpusSection, *, root: Place, seed: int, on_progress: Progress | None = None) -> Corpus:
    """Write the texts of `section` under `root`/corpus, or open them when the same inputs were written before.

    The folder is named by the specification, the seed, and the path, size and time of every file. `held_out` texts
    are a source of their own, or set aside from `train` by a hash of the text and `seed`; no text is in both.
    Raises DataError when a source cannot be read or leaves a split without text.
    """
    folder, specification = _place(section, root, seed)
    if (folder / "corpus.json").is_file():
        return open_corpus(folder)
    storage.remove_temporaries(folder)
    languages = {
        name: _build_language(language, section, folder=folder, name=name, seed=seed, on_progress=on_progress)
        for name, language in section.languages.items()
    }
    record = _CorpusRecord(
        format=_FORMAT,
        fingerprint=_fingerprint(languages),
        seed=seed,
        specification=specification,
        languages=languages,
    ).sealed()
    storage.write_bytes(folder / "corpus.json", record.model_dump_json(indent=1).encode())
    return Corpus(folder, record)


def corpus_folder(section: CorpusSection, *, root: Place, seed: int) -> Place:
    """Where `build_corpus` with the same arguments writes, or wrote; DataError when a source cannot be found."""
    return _place(section, root, seed)[0]


def open_corpus(folder: Place) -> Corpus:
    """The corpus in `folder`, in milliseconds; raises StoreError when it is not a whole one."""
    path = folder / "corpus.json"
    if not path.is_file():
        raise StoreError(f"{folder} holds no finished corpus (corpus.json is missing); build it first")
    try:
        record = _CorpusRecord.model_validate_json(storage.read_bytes(path, max_bytes=_MAX_RECORD_BYTES))
        problem = record.problem()
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))
        problem = f"at '{where[:200]}'"
    if problem is not None:
        raise StoreError(
            f"{path} is damaged or of another version ({problem}); delete {folder} and run again to build it anew"
        )
    return Corpus(folder, record)


def _read_column(path: Path) -> pa.ChunkedArray:
    with pa.memory_map(str(path)) as mapped:
        return pa.Table.from_batches(read_batches(mapped.read_buffer(), _SCHEMA), _SCHEMA).column("text")


def _fingerprint(languages: Mapping[str, _LanguageRecord]) -> str:
    hashes = [[name, record.train.hash, record.held_out.hash] for name, record in sorted(languages.items())]
    return storage.hash_bytes(json.dumps(hashes).encode())


def _place(section: CorpusSection, root: Place, seed: int) -> tuple[Place, dict[Language, dict[str, object]]]:
    specification = {name: _specification(language, section, name) for name, language in section.languages.items()}
    named = json.dumps([_FORMAT, seed, specification], sort_keys=True).encode()
    return root / "corpus" / storage.hash_bytes(named)[:16], specification


def _specification(language: LanguageSection, section: CorpusSection, name: str) -> dict[str, object]:
    """Everything that decides which texts a language has, as JSON."""
    described: dict[str, object] = {"train": _describe(language.train, f"corpus.languages.{name}.train")}
    if language.held_out is not None:
        described["held_out"] = _describe(language.held_out, f"corpus.languages.{name}.held_out")
    else:
        described["held_out_share"] = section.held_out_share
        described["held_out_max_texts"] = section.held_out_max_texts
    return described


def _describe(source: TextSource, key: str) -> dict[str, object]:
    found = [(str(path.resolve()), path.stat()) for path in source_files(source, key=key)]
    return {
        **source.model_dump(mode="json", exclude={"files"}),
        "files": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in found],
    }


def _build_language(
    language: LanguageSection,
    section: CorpusSection,
    *,
    folder: Place,
    name: str,
    seed: int,
    on_progress: Progress | None,
) -> _LanguageRecord:
    def write(split: Split, texts: Iterator[str]) -> _SplitRecord:
        def report(num_texts: int) -> None:
            if on_progress is not None:
                on_progress(name, split, num_texts)

        return _write_split(texts, folder=folder, stem=f"{name}/{split}", on_progress=report)

    key = f"corpus.languages.{name}"
    if language.held_out is not None:
        held_out = HeldOut(seed=seed, share=0.0, max_texts=0)
        held_out_record = write("held_out", held_out.collect(read_texts(language.held_out, key=f"{key}.held_out")))
        train_record = write("train", held_out.train_only(read_texts(language.train, key=f"{key}.train")))
    else:
        held_out = HeldOut(seed=seed, share=section.held_out_share, max_texts=section.held_out_max_texts)
        train_record = write("train", held_out.train_only(read_texts(language.train, key=f"{key}.train")))
        held_out_record = write("held_out", held_out.set_aside())
    _require_text(train_record, language.train, f"{key}.train")
    _require_text(held_out_record, language.held_out or language.train, f"{key}.held_out")
    return _LanguageRecord(train=train_record, held_out=held_out_record, dropped_from_train=held_out.num_dropped)


def _require_text(record: _SplitRecord, source: TextSource, key: str) -> None:
    if record.num_texts == 0:
        named = source.dataset or ", ".join(source.files)
        chosen = f" with {source.where}" if source.where else ""
        raise DataError(f"{key}: no text is left from {named}{chosen}; give it text that is not blank or held out")


def _write_split(texts: Iterator[str], *, folder: Place, stem: str, on_progress: Callable[[int], None]) -> _SplitRecord:
    """Write `texts` as Arrow files of about 64 MB, one record batch of about 1 MB in memory at a time."""
    running = xxhash.xxh3_128()
    files: list[_File] = []
    num_texts = num_characters = 0
    batches = _batches(texts)
    for batch in batches:
        name = f"{stem}/{len(files):05d}.arrow"
        before = num_texts
        with storage.open_write(folder / name) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
            following: list[str] | None = batch
            while following is not None:
                writer.write_batch(pa.record_batch([pa.array(following, pa.string())], schema=_SCHEMA))
                for text in following:
                    data = text.encode()
                    running.update(len(data).to_bytes(8, "little"))
                    running.update(data)
                num_texts += len(following)
                num_characters += sum(map(len, following))
                on_progress(num_texts)
                following = next(batches, None) if file.num_bytes < _FILE_BYTES else None
        files.append(_File(name=name, num_texts=num_texts - before, num_bytes=file.num_bytes, hash=file.hash))
    return _SplitRecord(
        num_texts=num_texts, num_characters=num_characters, hash=running.hexdigest(), files=tuple(files)
    )


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
