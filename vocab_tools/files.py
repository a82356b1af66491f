"""Durable folders and hashes: a folder of files is complete under its name, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vocab_tools.errors import VocabularyError


def hash_bytes(data: bytes) -> str:
    """BLAKE2b with 128 bits, as 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def hash_file(path: Path) -> str:
    """The same of a file's content."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
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
