"""Durable writes on disks of this machine, and hashes: a file is there whole under its name, or it is not there.

A commit is: a temporary name in the same folder, the bytes, fsync, rename, fsync of the folder. Each call to the
operating system goes through `disk`, so that a test can make any one of them fail.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import xxhash

from orchestrator.errors import StorageError

if TYPE_CHECKING:
    from orchestrator.storage.remote import Place

Data: TypeAlias = bytes | bytearray | memoryview

_TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{8}$")
_READ_BYTES = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND


class Disk:
    """The calls to the operating system behind every write; a test replaces `disk` to inject faults."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


disk = Disk()


class FileWriter:
    """A file that is being written under its temporary name; made by `open_write`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.num_bytes = 0
        self.closed = False
        self._descriptor = descriptor
        self._hash = xxhash.xxh3_128()

    def write(self, data: Data) -> int:
        """Write all of `data` (any contiguous buffer), return its length in bytes."""
        assert not self.closed, "the file is committed"
        view = memoryview(data).cast("B")
        self._hash.update(view)
        with _explained(self.path, "written"):
            _write_all(self._descriptor, view)
        self.num_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is buffered here; other libraries expect the method."""

    @property
    def hash(self) -> str:
        """xxh3-128 of everything written so far, 32 hex digits."""
        return self._hash.hexdigest()


@contextmanager
def open_write(path: Path) -> Iterator[FileWriter]:
    """A writer whose file appears at `path`, replacing what was there, when the `with` block ends well.

    Missing folders are made. When the block raises, nothing is left. Raises StorageError when the disk refuses.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    make_folder(path.parent)
    with _explained(path, "written"):
        descriptor = disk.open(temporary, _CREATE)
    writer = FileWriter(path, descriptor)
    try:
        try:
            yield writer
            with _explained(path, "written"):
                disk.sync(descriptor)  # never tried twice: after a failed fsync the kernel may have dropped the pages
        finally:
            writer.closed = True
            with _explained(path, "written"):
                disk.close(descriptor)
        with _explained(path, "written"):
            disk.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            disk.remove(temporary)
        raise
    with _explained(path, "written"):
        disk.sync_folder(path.parent)


def write_bytes(path: Path, data: Data) -> None:
    """Write `data` to `path` durably and atomically; raises StorageError when the disk refuses."""
    with open_write(path) as file:
        file.write(data)


def commit_folder(source: Path, target: Path) -> None:
    """Give a finished folder its name: every file synced, then one rename; a folder at `target` is replaced.

    Raises StorageError when the disk refuses.
    """
    with _explained(target, "written"):
        for parent, _, names in os.walk(source):
            for name in names:
                descriptor = disk.open(Path(parent, name), os.O_RDONLY)
                try:
                    disk.sync(descriptor)
                finally:
                    disk.close(descriptor)
            disk.sync_folder(Path(parent))
        if target.exists():
            shutil.rmtree(target)
        disk.rename(source, target)
        disk.sync_folder(target.parent)


def append_line(path: Path, text: str) -> None:
    """Add one line to the file at `path`, made when absent, and flush it to the disk.

    A last line that a kill tore is ended first, so that it spoils only itself. Raises StorageError.
    """
    assert "\n" not in text, "one line at a time"
    make_folder(path.parent)
    with _explained(path, "written"):
        descriptor = disk.open(path, _APPEND)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            _write_all(descriptor, memoryview(f"{chr(10) if torn else ''}{text}\n".encode()))
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents, durably; raises StorageError when the disk refuses."""
    with _explained(folder, "made"):
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            disk.make_folder(new)
            disk.sync_folder(new.parent)


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """The content of a small file; StorageError when it cannot be read or is larger than `max_bytes`."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= max_bytes else None  # as much memory as is asked for is taken at once
    if data is None or len(data) > max_bytes:
        raise StorageError(
            f"{path} has {size} bytes where at most {max_bytes} are expected; it is damaged or not a file of this run"
        )
    return data


def parse_json(data: bytes) -> object:
    """What a JSON text holds; ValueError when it is none, or is nested deeper than anything that orch writes."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def hash_bytes(data: Data) -> str:
    """xxh3-128 of `data`, 32 hex digits."""
    return xxhash.xxh3_128(data).hexdigest()


def hash_file(path: Path) -> str:
    """xxh3-128 of the file at `path`, 32 hex digits; raises StorageError when it cannot be read."""
    running = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_READ_BYTES))
    with _opened(path) as file:
        while count := file.readinto(buffer):
            running.update(buffer[:count])
    return running.hexdigest()


class FileState(NamedTuple):
    """What tells one version of a file from another without reading it."""

    path: Place
    inode: int  # of an object: the hash of its etag
    modified_ns: int
    num_bytes: int


def file_state(path: Path) -> FileState | None:
    """The state of the file at `path`, None where there is none; raises StorageError when the disk refuses."""
    with _explained(path, "read"):
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
    _require_file(path, status)
    return FileState(path, status.st_ino, status.st_mtime_ns, status.st_size)


def remove_temporaries(folder: Path) -> int:
    """Delete what killed writers left anywhere under `folder`, return how many files; for when nobody writes there."""
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in filter(_TEMPORARY.search, names):
            with _explained(Path(parent, name), "removed"):
                disk.remove(Path(parent, name))
            removed += 1
    return removed


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that holds `path`, or will hold it."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:  # the system may take less than it is offered
        view = view[disk.write(descriptor, view) :]


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file at `path` for reading; a pipe, a device or a folder is refused, since reading it may never end."""
    with _explained(path, "read"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _require_file(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        with os.fdopen(descriptor, "rb") as file:
            yield file


def _require_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is no ordinary file; move it away and run the same command again")


@contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be {done}: {_advice(error, path)}") from error


def _advice(error: OSError, path: Path) -> str:
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            with suppress(OSError):
                reason = f"the disk is full ({free_bytes(path.absolute()) / 1e6:.1f} MB free)"
            return f"{reason}; make room and run the same command again, what is finished is kept"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{reason}; give this user the right to it or choose another folder"
        case errno.EEXIST | errno.ENOTDIR:
            return "a file stands where a folder is needed; move it away or choose another folder"
        case errno.ENOENT:
            return "there is no such file; check the path, or run the step that makes it"
        case errno.EIO:
            return f"the disk reports '{reason}'; check the disk, then run the same command again"
        case _:
            return f"{reason}; mend that and run the same command again"
