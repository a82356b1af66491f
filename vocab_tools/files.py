"""Durable folders and hashes: a folder of files is complete under its name, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vocab_tools.errors import VocabularyError

#: No vocabulary is larger: ids, rows of an embedding, tokens.
MOST_TOKENS = 1 << 24
_MAX_BYTES = 1 << 28

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


def hash_bytes(data: bytes) -> str:
    """BLAKE2b with 128 bits, as 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def hash_file(path: Path) -> str:
    """The same of a file's content."""
    with _opened(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_bytes(path: Path, *, max_bytes: int = _MAX_BYTES) -> bytes:
    """The content of a file of a vocabulary or tokenizer; VocabularyError when it is larger than any."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise VocabularyError(f"{path} has {size:,} bytes where at most {max_bytes:,} are expected")
        return file.read(size)


def parse_json(data: bytes, *, once: bool = False) -> JSON:
    """What a JSON text holds; ValueError when it is none, or nested deeper than any that is read here.

    `once`: also when a key stands twice in it, of which readers take different ones.
    """
    try:
        found: JSON = json.loads(data, object_pairs_hook=_each_once if once else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def _each_once(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in it")
    return found


def read_map(path: Path) -> npt.NDArray[np.int32]:
    """The int32 list that `numpy.save` wrote to `path`, read-only. What is written there is compared, never parsed.

    Raises VocabularyError when the file is anything else.
    """
    data = read_bytes(path, max_bytes=4 * MOST_TOKENS + 1024)
    header = _map_header(max(0, len(data) - len(_map_header(0))) // 4)
    if not data.startswith(header) or (len(data) - len(header)) % 4:
        raise VocabularyError(f"{path} is no id map: one list of int32 was expected; build the vocabulary again")
    return np.frombuffer(data, np.int32, offset=len(header))


def _map_header(count: int) -> bytes:
    """What `numpy.save` writes before `count` int32 numbers: 128 bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i4", "fortran_order": False, "shape": (count,)})
    return stream.getvalue()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file for reading; a pipe or a device is refused, since reading it may never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise VocabularyError(f"{path} is no ordinary file; move it away and build the vocabulary again")
        with os.fdopen(descriptor, "rb") as file:
            yield file
    except OSError as error:
        raise VocabularyError(f"{path} cannot be read ({error.strerror}); build the vocabulary again") from error


@contextmanager
def new_folder(target: Path, *, marker: str) -> Iterator[Path]:
    """A temporary folder beside `target` to write into; on success it is flushed to disk and takes target's name.

    An older folder of that name is replaced if it holds `marker` or nothing; any other is refused. On failure nothing
    is left behind.
    """
    target = Path(target).absolute()
    if target.exists() and not (target / marker).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise VocabularyError(f"{target} exists and is no vocabulary; give another folder or remove it first")
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    old = temporary.with_name(f"{temporary.name}-old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _flush(temporary)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        _flush_one(target.parent)
    except OSError as error:
        free = shutil.disk_usage(target.parent).free if target.parent.is_dir() else 0
        hint = f" ({free // 2**20} MiB are free)" if error.errno == errno.ENOSPC else ""
        raise VocabularyError(f"{target} cannot be written: {error.strerror}{hint}") from error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            _flush_one(Path(root) / name)
        _flush_one(Path(root))


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
