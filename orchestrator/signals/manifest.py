"""The two JSON files of a signal store: the manifest of the whole, and one receipt for each shard.

Both are read as if a stranger had written them: limited in size, strictly typed, unknown keys refused, and sealed by a
checksum of their own content. No path is ever taken from them: files are found by table names of a fixed pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator

from orchestrator.config.base import Language, Name
from orchestrator.errors import StoreError
from orchestrator.records import HiddenCodec, SignalRequest, Unit
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import TeacherSizes
from orchestrator.storage import FileState, Place, hash_bytes, read_bytes, write_bytes

Hash: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
#: A number in it is a count, a layer or a temperature.
_TABLE = (
    r"texts|tokens|masked|sentence_vectors|(hidden|query|key|value)_[0-9]{2,3}"
    r"|(head_states|(topk|draws|drawn)_[0-9]{3,7}|partition(_t[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?)?)(_all)?"
)
TableName: TypeAlias = Annotated[str, StringConstraints(pattern=rf"^({_TABLE})$", max_length=64)]
Count: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 62)]

#: language -> [first, end) ranges of texts, ascending, joined where they touch
Coverage: TypeAlias = dict[str, list[tuple[int, int]]]

MANIFEST, SHARDS = "manifest.json", "shards"

MOST_SHARDS = 1_000_000
_LONGEST_REASON = 300  # it may hold what the file holds


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Sealed(_Strict):
    """A JSON file that carries the hash of its own content."""

    MAX_BYTES: ClassVar[int]

    format: Literal[1] = 1
    checksum: Hash = "0" * 32

    def content_hash(self) -> str:
        """xxh3-128 of this object as JSON, its checksum left out."""
        return hash_bytes(self.model_dump_json(exclude={"checksum"}).encode())

    def sealed(self) -> Self:
        """The same with the right checksum."""
        return self.model_copy(update={"checksum": self.content_hash()})

    def write(self, path: Place) -> None:
        """Write durably; what was there is replaced in one step."""
        write_bytes(path, self._text())

    def _text(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def read(cls, path: Place) -> Self:
        """The object at `path`; StoreError when its content is not what was once written, StorageError without it."""
        data = read_bytes(path, max_bytes=cls.MAX_BYTES)
        with naming(path):
            found = cls.model_validate_json(data)
            if found.checksum != found.content_hash():
                raise ValueError("its content does not fit its checksum")
            if found._text() != data:  # such as a key written twice, which readers take differently
                raise ValueError("it is not as it was written")
        return found


class FileEntry(_Strict):
    """What the file of a table must be."""

    num_rows: Count
    num_bytes: Count
    hash: Hash


class Receipt(_Sealed):
    """`shards/NNNNNN.json`: shard `unit.index` of the store with this digest is complete, and consists of `tables`."""

    MAX_BYTES = 1 << 18

    digest: Digest
    unit: Unit
    num_rows: Count
    num_tokens: Count
    num_masked: Count
    tables: dict[TableName, FileEntry]
    versions: dict[str, str]


def is_table(name: str) -> bool:
    """Whether format 1 has tables of this name."""
    return re.fullmatch(_TABLE, name) is not None


@lru_cache(16_384)
def read_receipt(state: FileState) -> Receipt:
    """The receipt in this version of a file, parsed once in a process; StoreError when it is damaged."""
    return Receipt.read(state.path)


class Manifest(_Sealed):
    """`manifest.json`: what the store is made from, what it holds, its units, and their receipts when all are there."""

    MAX_BYTES = 1 << 29

    teacher: Name
    digest: Digest
    fingerprint: dict[str, JsonValue]
    request: SignalRequest
    codec: HiddenCodec
    sizes: TeacherSizes | None
    languages: tuple[Language, ...]
    units: tuple[Unit, ...]
    receipts: dict[int, Hash] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.digest != Fingerprint(self.fingerprint).digest:
            raise ValueError(f"its fingerprint was altered: digest {self.digest} does not fit")
        if len(set(self.languages)) != len(self.languages):
            raise ValueError("a language is listed twice")
        _check_bounds(self.request, self.sizes)
        for unit in self.units:
            if unit.teacher != self.teacher or unit.language not in self.languages:
                raise ValueError(f"unit {unit.index} is of teacher '{unit.teacher}' and language '{unit.language}'")
            if not 0 <= unit.index < MOST_SHARDS or unit.first_text < 0 or unit.num_texts < 1:
                raise ValueError(f"unit {unit.index} is out of bounds")
        if len({unit.index for unit in self.units}) != len(self.units):
            raise ValueError("two units have one index")
        coverage(self.units)
        return self


def widened(stored: Manifest, asked: Manifest, folder: Place) -> Manifest:
    """`stored` with the signals of both; StoreError when anything but what is asked for sets them apart."""
    difference = Fingerprint(stored.fingerprint).difference(Fingerprint(asked.fingerprint))
    difference = difference or _frame(stored).difference(_frame(asked))
    if difference:
        raise StoreError(f"the store {folder} {difference}; move it away, or put the configuration back")
    return with_request(stored, asked.request)


def with_request(stored: Manifest, request: SignalRequest) -> Manifest:
    """`stored` with the signals of `request` too; where that is more, its shards are no longer complete."""
    if stored.request.covers(request):
        return stored
    return stored.model_copy(update={"request": stored.request | request, "receipts": {}})


def _frame(manifest: Manifest) -> Fingerprint:
    """What, beside the fingerprint, cannot change in a store that has shards."""
    return Fingerprint(
        {
            "teacher": manifest.teacher,
            "languages": manifest.languages,
            "hidden codec": manifest.codec,
            "sizes": None if manifest.sizes is None else asdict(manifest.sizes),
            "texts": coverage(manifest.units),
        }
    )


def _check_bounds(request: SignalRequest, sizes: TeacherSizes | None) -> None:
    numbers = [request.top_k, request.draws, *(key.layer for key in request.states)]
    layers = [key.layer for key in request.states if key.layer >= 1000 or (key.layer == 0 and key.kind != "hidden")]
    cold = [temperature for temperature in request.temperatures if temperature <= 0]
    if min(numbers) < 0 or max(numbers) >= 1 << 20 or layers or cold or request != SignalRequest() | request:
        raise ValueError(f"{request} is out of bounds")
    if sizes is not None and not all(0 < size < 1 << 30 for size in asdict(sizes).values()):
        raise ValueError(f"{sizes} are out of bounds")


def coverage(units: Sequence[Unit]) -> Coverage:
    """Which texts of each language the units cover; ValueError when a text would be in two of them."""
    covered: Coverage = {}
    for unit in sorted(units, key=lambda unit: unit.first_text):
        ranges = covered.setdefault(unit.language, [])
        first, end = unit.first_text, unit.first_text + unit.num_texts
        if ranges and first < ranges[-1][1]:
            raise ValueError(f"unit {unit.index} repeats texts of {unit.language}")
        if ranges and first == ranges[-1][1]:
            first = ranges.pop()[0]
        ranges.append((first, end))
    return covered


@contextmanager
def naming(
    path: Place,
    *,
    problem: str = "is damaged or not of format 1",
    cure: str = "remove it and run `orch precompute-teacher` again",
) -> Iterator[None]:
    """Turn a ValueError of the block into a StoreError that names the file and the first thing wrong with it."""
    try:
        yield
    except ValueError as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            reason = ".".join(map(str, first["loc"])) + ": " + first["msg"]
        raise StoreError(f"{path} {problem} ({reason.removeprefix(': ')[:_LONGEST_REASON]}); {cure}") from error
