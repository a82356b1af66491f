"""Copies of objects on this machine, for readers that map files: whole, checked against a hash, within a byte limit.

Any number of processes share a cache without locks. A copy appears by rename and goes by unlink, after which the system
keeps its bytes for as long as somebody maps them.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import StorageError, StoreError
from orchestrator.storage import local, remote
from orchestrator.storage.remote import CacheOptions, RemotePath

_log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 5
#: What a killed process left while it fetched or wrote.
_ABANDONED_SECONDS = 24 * 3600.0

#: Copies that had the right hash: each is hashed once in a process.
_verified: set[tuple[local.FileState, str]] = set()


def use_copy(path: RemotePath, use: Callable[[Path], T], *, num_bytes: int, hash: str, anew: bool = False) -> T:
    """What `use` makes of a copy of the object, which is fetched when it is not there; `anew`: fetched in any case.

    Raises StoreError when the object has not this hash, StorageError when it cannot be had.
    """
    for attempt in range(_ATTEMPTS):
        copy = _copy(path, num_bytes=num_bytes, hash=hash, anew=anew and attempt == 0)
        try:
            return use(copy)
        except (OSError, StorageError, StoreError):
            if copy.exists():
                raise
            # another process made room before `use` had opened it
    raise StorageError(
        f"{path} is dropped from the cache before it can be read, since others need the room; raise run.cache_gigabytes"
    )


def keep(path: RemotePath, source: Path, *, hash: str) -> None:
    """Move a file that was just put at `path` into the cache, where a reader on this machine finds it."""
    num_bytes = source.stat().st_size
    if num_bytes > path.cache.max_bytes:
        source.unlink()
        return
    _make_room(path.cache, num_bytes)
    target = _target(path, hash)
    local.make_folder(target.parent)
    source.replace(target)


def folder_of(options: CacheOptions) -> Path:
    """Where this machine keeps its copies."""
    chosen = options.folder or os.environ.get("ORCH_CACHE") or "~/.cache/orch"
    return Path(chosen).expanduser().absolute()


def working_file(options: CacheOptions) -> Path:
    """A new name for a file that is being fetched or written, on the disk of the cache."""
    return folder_of(options) / "partial" / f"{os.getpid()}-{secrets.token_hex(8)}"


def _copy(path: RemotePath, *, num_bytes: int, hash: str, anew: bool) -> Path:
    target = _target(path, hash)
    if not anew:
        state = local.file_state(target)
        if state is not None and _is_sound(state, num_bytes=num_bytes, hash=hash):
            with suppress(FileNotFoundError):  # what is used last goes last; the time of change stays as it was
                os.utime(target, ns=(time.time_ns(), state.modified_ns))
            return target
        if state is not None:
            _log.warning("%s, the copy of %s, is damaged and is fetched anew", target, path)
    if num_bytes > path.cache.max_bytes:
        raise StorageError(f"{path} has {num_bytes} bytes, more than the whole cache; raise run.cache_gigabytes")
    _make_room(path.cache, num_bytes)
    partial = working_file(path.cache)
    local.make_folder(partial.parent)
    local.make_folder(target.parent)
    try:
        remote.get_file(path, partial)
        if partial.stat().st_size != num_bytes or local.hash_file(partial) != hash:
            raise StoreError(
                f"{path} is damaged (its content does not fit the hash in its receipt); remove it and run the step that"
                " makes it again"
            )
        state = local.file_state(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    assert state is not None
    _verified.add((state._replace(path=target), hash))
    _make_room(path.cache, 0)  # others may have fetched something into the same room meanwhile
    return target


def _target(path: RemotePath, hash: str) -> Path:
    """By content and place: nobody else's bucket can bring a copy about."""
    return folder_of(path.cache) / "files" / f"{hash}-{local.hash_bytes(path.url.encode())[:16]}"


def _is_sound(state: local.FileState, *, num_bytes: int, hash: str) -> bool:
    if (state, hash) in _verified:
        return True
    with suppress(StorageError):  # made room for in this moment
        if state.num_bytes == num_bytes and local.hash_file(Path(str(state.path))) == hash:
            _verified.add((state, hash))
            return True
    return False


def _make_room(options: CacheOptions, num_bytes: int) -> None:
    """Drop what was not used for longest until `num_bytes` more fit; others may do the same at the same time."""
    for partial in _entries(folder_of(options) / "partial"):
        if partial[0] < time.time() - _ABANDONED_SECONDS:
            partial[2].unlink(missing_ok=True)
    copies = sorted(_entries(folder_of(options) / "files"))
    total = sum(size for _, size, _ in copies)
    for _, size, path in copies:
        if total + num_bytes <= options.max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def _entries(folder: Path) -> list[tuple[float, int, Path]]:
    """(last use in seconds since 1970, bytes, path) of the files in a folder of the cache."""
    found: list[tuple[float, int, Path]] = []
    if folder.is_dir():
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                status = entry.stat()
                found.append((status.st_atime, status.st_size, Path(entry.path)))
    return found
