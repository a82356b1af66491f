"""A vocabulary folder as it lies on disk: written with the hashes of both sides, opened only if they fit.

V student ids, V_t ids of one teacher.

    vocab.json            {"0": "[PAD]", …}: student id -> token
    maps/NAME.npy         int32 [V_t]: teacher id -> student id, -1 where there is none
    tokenizers/NAME/      the student's tokenizer for the texts of this teacher (also under the names of languages)
    mapping.json          format, size, the hashes of every file above, of every teacher's tokenizer and of itself
    report.json, .html    what happened, and merged.tsv; not hashed
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from vocab_tools.canonical import ROLES, Role
from vocab_tools.errors import VocabularyError
from vocab_tools.files import JSON, MOST_TOKENS, hash_bytes, hash_file, parse_json, read_bytes, read_map
from vocab_tools.read import TeacherTokenizer, read_tokenizer
from vocab_tools.tokenizers import dump
from vocab_tools.union import Int32

MAPPING_FILE = "mapping.json"
FORMAT = 1
_KEYS = {"format", "size", "merge", "teachers", "opened", "tokenizers", "files"}
_MAX_BYTES = 1 << 22
_LONGEST_NAME = 400
_HASH = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Vocabulary:
    """An opened vocabulary folder; every file is checked against its hash when it is first used."""

    folder: Path
    size: int
    merge: str
    teachers: Mapping[str, str]  # name -> fingerprint of the teacher's tokenizer
    opened: Mapping[str, str]  # name -> the path or name from which that tokenizer was read
    tokenizers: Mapping[str, str]  # name of a tokenizer folder -> the teacher it belongs to ("" for the merged one)
    _hashes: Mapping[str, str]

    @property
    def special(self) -> Mapping[Role, int]:
        """Student ids of the special tokens: pad 0, unk 1, cls 2, sep 3, mask 4."""
        return {role: index for index, role in enumerate(ROLES)}

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers, in the order of the alphabet."""
        return tuple(self.teachers)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The token of each student id, as vocab.json calls it."""
        path = self._checked("vocab.json")
        try:
            found = parse_json(read_bytes(path), once=True)
        except ValueError as error:
            raise VocabularyError(f"{path} is damaged ({error}); build the vocabulary again") from error
        words = [word for word in found.values() if isinstance(word, str)] if isinstance(found, dict) else []
        if not isinstance(found, dict) or len(words) != self.size or list(found) != [*map(str, range(self.size))]:
            raise VocabularyError(f"{path} does not name the ids 0 to {self.size - 1}; build the vocabulary again")
        return tuple(words)

    def map(self, name: str) -> Int32:
        """Teacher id -> student id, int32 [V_t], -1 where there is none; read-only."""
        table = read_map(self._checked(f"maps/{self._known(name, self.teachers)}.npy"))
        if table.size and not -1 <= table.min() <= table.max() < self.size:
            raise VocabularyError(f"{self.folder}/maps/{name}.npy is no map into {self.size} ids; build it again")
        return table

    def support(self, name: str) -> npt.NDArray[np.bool_]:
        """Which student ids this teacher has, bool [V]."""
        mask = np.zeros(self.size, dtype=np.bool_)
        table = self.map(name)
        mask[table[table >= 0]] = True
        return mask

    def tokenizer_folder(self, name: str) -> Path:
        """The folder that AutoTokenizer.from_pretrained opens, of a teacher, a language, or `merged`."""
        folder = f"tokenizers/{self._known(name, self.tokenizers)}"
        for file in (f"{folder}/tokenizer.json", f"{folder}/tokenizer_config.json"):
            self._checked(file)
        return self.folder / folder

    def require_teacher(self, name: str, tokenizer: Path | str) -> TeacherTokenizer:
        """Open a teacher's tokenizer and refuse any other than that from which the map was made."""
        teacher = read_tokenizer(tokenizer, name=name)
        if teacher.fingerprint() != self.teachers[self._known(name, self.teachers)]:
            raise VocabularyError(
                f"{self.folder} maps the ids of another tokenizer than {tokenizer} for '{name}';"
                " build the vocabulary again"
            )
        return teacher

    def verify(self) -> None:
        """Check every file against its hash now."""
        for file in self._hashes:
            self._checked(file)

    def _known(self, name: str, known: Mapping[str, str]) -> str:
        if name not in known:
            raise VocabularyError(f"{self.folder} knows no '{name}'; it has {', '.join(known)}")
        return name

    def _checked(self, file: str) -> Path:
        path = self.folder / file
        if hash_file(path) != self._hashes.get(file):
            raise VocabularyError(f"{path} was changed since it was written; build the vocabulary again")
        return path


def open_vocabulary(folder: Path) -> Vocabulary:
    """Open what build_vocabulary wrote; refuses an incomplete folder and a changed vocab.json or map."""
    folder = Path(folder)
    path = folder / MAPPING_FILE
    if not path.exists():
        raise VocabularyError(f"{folder} is no vocabulary folder ({path.name}: there is no such file)")
    data = read_bytes(path, max_bytes=_MAX_BYTES)
    try:
        document = parse_json(data)
        if not isinstance(document, dict):
            raise ValueError("it holds no JSON object")
        found = document.get("format", FORMAT)
        if found != FORMAT:
            raise VocabularyError(f"{path} has format {str(found)[:40]}, this version reads {FORMAT}")
        if dump(document) != data:  # such as a key written twice, which readers take differently
            raise ValueError("it is not as it was written")
        checksum = document.pop("checksum", None)  # folders of before it had none
        if set(document) != _KEYS or (checksum is not None and checksum != hash_bytes(dump(document))):
            raise ValueError("its content does not fit its checksum")
        vocabulary = _vocabulary(folder, document)
    except ValueError as error:
        raise VocabularyError(f"{path} is damaged ({error}); build the vocabulary again") from error
    for file in ("vocab.json", *(f"maps/{name}.npy" for name in vocabulary.teachers)):
        vocabulary._checked(file)
    return vocabulary


def _vocabulary(folder: Path, document: Mapping[str, JSON]) -> Vocabulary:
    """ValueError when a value has another type than it is written with, or a name would lead out of the folder."""
    size, merge = document["size"], document["merge"]
    if type(size) is not int or not len(ROLES) <= size <= MOST_TOKENS or not isinstance(merge, str):
        raise ValueError(f"its size is {str(size)[:40]}")
    teachers, opened, tokenizers, files = (
        _words(document[key], key) for key in ("teachers", "opened", "tokenizers", "files")
    )
    names = [*teachers, *opened, *tokenizers]
    if any("/" in name for name in names) or not all(map(_stays_inside, [*names, *files])):
        raise ValueError("it names files outside of its folder")
    if not all(map(_HASH.fullmatch, [*teachers.values(), *files.values()])):
        raise ValueError("what should be a hash is none")
    if not opened.keys() <= teachers.keys() or not set(tokenizers.values()) <= {"", *teachers}:
        raise ValueError("it has tokenizers of teachers that it does not name")
    return Vocabulary(folder, size, merge, teachers, opened, tokenizers, files)


def _words(value: JSON, key: str) -> dict[str, str]:
    words = {name: word for name, word in value.items() if isinstance(word, str)} if isinstance(value, dict) else {}
    if not isinstance(value, dict) or len(words) != len(value):
        raise ValueError(f"its '{key}' are no names and words")
    return words


def _stays_inside(file: str) -> bool:
    parts = PurePosixPath(file).parts
    return (
        0 < len(file) <= _LONGEST_NAME
        and str(PurePosixPath(*parts)) == file
        and not {"/", "..", "."} & set(parts)
        and "\0" not in file
    )


def write_mapping(
    folder: Path,
    *,
    size: int,
    merge: str,
    teachers: Mapping[str, str],
    opened: Mapping[str, str],
    tokenizers: Mapping[str, str],
) -> None:
    """Write mapping.json, with the hash of every file that is already in the folder and of itself."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    document = {
        "format": FORMAT,
        "size": size,
        "merge": merge,
        "teachers": dict(sorted(teachers.items())),
        "opened": dict(sorted(opened.items())),
        "tokenizers": dict(sorted(tokenizers.items())),
        "files": {path.relative_to(folder).as_posix(): hash_file(path) for path in files},
    }
    (folder / MAPPING_FILE).write_bytes(dump(document | {"checksum": hash_bytes(dump(document))}))


def translate(ids: npt.NDArray[np.integer], table: Int32, *, missing: int | None = None) -> Int32:
    """Teacher ids of any shape as student ids: one gather; `missing` (for example unk) takes the place of -1."""
    mapped = table[ids]
    return mapped if missing is None else np.where(mapped < 0, np.int32(missing), mapped)
