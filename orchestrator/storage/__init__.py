"""Every durable write of orch, every hash, and every read by URL.

A place is a `Path` or a `RemotePath`; what is said here of a place holds for both. `local.py` does it on disks,
`remote.py` on object stores, `cache.py` keeps copies of objects for those who map files, `leases.py` lets one write.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import StorageError, StoreError
from orchestrator.storage import cache, local, remote
from orchestrator.storage.local import (
    Data,
    Disk,
    FileState,
    FileWriter,
    commit_folder,
    hash_bytes,
    hash_file,
    parse_json,
)
from orchestrator.storage.remote import CacheOptions, Place, RemotePath, at_once

__all__ = [
    "CacheOptions",
    "Data",
    "Disk",
    "FileState",
    "FileWriter",
    "Place",
    "RemotePath",
    "append_line",
    "at_once",
    "commit_folder",
    "fetch_folder",
    "file_state",
    "folder_problems",
    "free_bytes",
    "has_folder",
    "hash_bytes",
    "hash_file",
    "listed",
    "local_path",
    "make_folder",
    "matching",
    "open_write",
    "parse_json",
    "place",
    "put_folder",
    "read_bytes",
    "read_lines",
    "remove_temporaries",
    "use_local",
    "write_bytes",
]

T = TypeVar("T")

#: Lists the files of a folder of objects; written last.
_FOLDER = "folder.json"
_MOST_FOLDER_BYTES = 64 << 20
_MOST_FILE_BYTES = 4 << 30
_MOST_LINE_BYTES = 1 << 20
_LONGEST_LOG = 1 << 28

#: Lines of logs on object stores that were read: none is ever changed.
_lines: dict[RemotePath, str] = {}


def place(text: str, options: CacheOptions = CacheOptions()) -> Place:  # noqa: B008 - frozen
    """A path, a file:// URL or the URL of an object store as a place; StorageError when it is none of these."""
    if text.startswith("file:///"):
        return Path(text.removeprefix("file://"))
    return remote.parse(text, options) if "://" in text else Path(text)


def local_path(text: str) -> Path:
    """The same for what lies on this machine."""
    found = place(text)
    if isinstance(found, RemotePath):
        raise StorageError(f"{text} is no folder of this machine; give a path")
    return found


@contextmanager
def open_write(path: Place) -> Iterator[FileWriter]:
    """A writer whose file or object appears whole at `path`, replacing what was there, when the block ends well.

    When the block raises, nothing is left. On an object store the bytes wait in a file of the cache, are put at the
    end of the block, and stay in the cache. Raises StorageError when disk or service refuse.
    """
    if isinstance(path, Path):
        with local.open_write(path) as writer:
            yield writer
        return
    partial = cache.working_file(path.cache)
    try:
        with local.open_write(partial) as writer:
            yield writer
        remote.put_file(path, partial)
        cache.keep(path, partial, hash=writer.hash)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Place, data: Data) -> None:
    """Write `data` to `path` durably and atomically; raises StorageError when disk or service refuse."""
    if isinstance(path, Path):
        local.write_bytes(path, data)
    else:
        remote.put_bytes(path, bytes(data))


def read_bytes(path: Place, *, max_bytes: int) -> bytes:
    """The content of a small file; StorageError when it cannot be read or is larger than `max_bytes`."""
    reader = local.read_bytes if isinstance(path, Path) else remote.get_bytes
    return reader(path, max_bytes=max_bytes)  # type: ignore[arg-type]


def file_state(path: Place) -> FileState | None:
    """What tells this version from others without reading it; None where there is none."""
    if isinstance(path, Path):
        return local.file_state(path)
    found = remote.find(path)
    return FileState(path, remote.version_number(found), 0, found.num_bytes) if found is not None else None


def listed(folder: Place) -> AbstractContextManager[None]:
    """For a block that looks at many files below `folder`: on an object store they are listed once, before."""
    return remote.listed(folder) if isinstance(folder, RemotePath) else nullcontext()


def use_local(path: Place, use: Callable[[Path], T], *, num_bytes: int, hash: str, anew: bool = False) -> T:
    """What `use` makes of a file that can be mapped: the file itself, or a checked copy of the object.

    `num_bytes` and `hash`: what a receipt says of it; only copies are checked against them here. `anew`: the copy is
    fetched again. Raises StoreError when the object is damaged.
    """
    if isinstance(path, Path):
        return use(path)
    return cache.use_copy(path, use, num_bytes=num_bytes, hash=hash, anew=anew)


def append_line(path: Place, text: str) -> None:
    """Add one line to a log, durably. On an object store a log is a prefix, and each line an object below it."""
    if isinstance(path, Path):
        local.append_line(path, text)
    else:
        remote.put_bytes(path / f"{time.time_ns():020d}-{secrets.token_hex(4)}", text.encode())


def read_lines(path: Place) -> list[str]:
    """The lines of a log in their order; none where there is no log."""
    if isinstance(path, Path):
        if not path.exists():
            return []
        return local.read_bytes(path, max_bytes=_LONGEST_LOG).decode("utf-8", errors="replace").splitlines()
    paths = sorted(path.iterdir())
    new = [line for line in paths if line not in _lines]
    _lines.update(zip(new, at_once(_line, new), strict=True))
    return [_lines[line] for line in paths]


def matching(folder: Place, pattern: str) -> list[Place]:
    """What lies below and fits the pattern of `Path.glob`, sorted by name."""
    found: Iterable[Place] = folder.glob(pattern)
    return sorted(found, key=str)


def make_folder(folder: Place) -> None:
    """Make `folder` and its missing parents, durably; an object store has none."""
    if isinstance(folder, Path):
        local.make_folder(folder)


def remove_temporaries(folder: Place) -> int:
    """Delete what killed writers left under `folder`, return how many files; on an object store they leave nothing."""
    return local.remove_temporaries(folder) if isinstance(folder, Path) else 0


def free_bytes(path: Place) -> int | None:
    """Free bytes of the disk that holds `path`, or will hold it; None for an object store."""
    return local.free_bytes(path) if isinstance(path, Path) else None


def put_folder(source: Path, target: RemotePath) -> None:
    """Put every file of a finished folder, then the list of them, without which the folder is not there."""
    files = {}
    for path in sorted(source.rglob("*")):
        if path.is_file():
            name = path.relative_to(source).as_posix()
            remote.put_file(target / name, path)
            files[name] = hash_file(path)
    remote.put_bytes(target / _FOLDER, json.dumps({"format": 1, "files": files}, indent=1).encode())


def has_folder(folder: RemotePath) -> bool:
    """Whether `put_folder` came to its end there."""
    return (folder / _FOLDER).exists()


def fetch_folder(source: RemotePath, target: Path) -> None:
    """Fetch what `put_folder` put, checked, as a folder that is there whole; StoreError names what is damaged."""
    partial = target.with_name(f"{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        for name, expected in _files(source).items():
            local.make_folder((partial / name).parent)
            remote.get_file(source / name, partial / name)
            if hash_file(partial / name) != expected:
                raise StoreError(_damaged_file(source, name))
        commit_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def folder_problems(folder: RemotePath) -> Iterator[str]:
    """What of a folder of objects is missing or damaged, each as one sentence; everything is fetched."""
    for name, expected in _files(folder).items():
        try:
            if hash_bytes(remote.get_bytes(folder / name, max_bytes=_MOST_FILE_BYTES)) != expected:
                yield _damaged_file(folder, name)
        except (StorageError, StoreError) as error:
            yield str(error)


def _files(folder: RemotePath) -> dict[str, str]:
    """Name -> hash; names stay below the folder."""
    path = folder / _FOLDER
    try:
        files = parse_json(remote.get_bytes(path, max_bytes=_MOST_FOLDER_BYTES))["files"]  # type: ignore[index]
        found = {str(name): str(hash) for name, hash in files.items()}
        if any(name.startswith("/") or ".." in name.split("/") for name in found):
            raise ValueError("a name leads out of it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is damaged ({error}); remove {folder} and run the same command again") from None
    return found


def _damaged_file(folder: RemotePath, name: str) -> str:
    return f"{folder / name} is damaged; remove {folder / _FOLDER} and run the step that makes it again"


def _line(path: RemotePath) -> str:
    return remote.get_bytes(path, max_bytes=_MOST_LINE_BYTES).decode()
