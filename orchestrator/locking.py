"""One driver per run: a lock on the run's folder that the operating system releases when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from orchestrator.credentials import without_credentials
from orchestrator.errors import ClusterError, OrchError, StorageError
from orchestrator.storage import Place, RemotePath, leases, make_folder, parse_json, read_bytes

_LOCK = ".lock"
_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Driver:
    """The process that works on a run."""

    pid: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"'{self.command}' (process {self.pid} on {self.host} since {self.since})"


@contextmanager
def lock_run(root: Place) -> Iterator[None]:
    """Hold `root/.lock` for the length of the block: a lock of the system, or the lease of an object store.

    Raises:
        ClusterError: another process holds it; the text names that process and its host.
    """
    if isinstance(root, RemotePath):
        try:
            with leases.hold(root / _LOCK, holder=str(_this_process())):
                yield
        except leases.TakenError as taken:
            raise ClusterError(
                f"{root} is in use by {taken}; wait until it ends, or choose another run.stores."
            ) from None
        return
    make_folder(root)
    path = root / _LOCK
    with _open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClusterError(
                f"{root} is in use by {_named(root) or 'another process'}; wait until it ends (`orch status` shows how "
                "far it is), or choose another run.root."
            ) from None
        with suppress(OSError):  # a full disk: the lock holds, only who holds it cannot be told
            path.write_text(json.dumps(asdict(_this_process())), encoding="utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                path.write_text("", encoding="utf-8")


def _this_process() -> Driver:
    command = without_credentials(" ".join(["orch", *sys.argv[1:]]))[: _MAX_BYTES // 8]
    return Driver(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), command)


def _open(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be opened: {error.strerror}; choose a run.root that can be written."
        ) from None


def driver_of(root: Path) -> Driver | None:
    """Who works on a run, by what its lock file says; nothing is locked or written. None when nobody does."""
    named = _named(root)
    if named is None or (named.host == socket.gethostname() and not _is_alive(named.pid)):
        return None
    return named


def writer_of(stores: Place) -> str | None:
    """Who writes there, by what a lock file or a lease says; None when nobody does."""
    if isinstance(stores, RemotePath):
        return leases.holder_of(stores / _LOCK)
    driver = driver_of(stores)
    return None if driver is None else str(driver)


def _named(root: Path) -> Driver | None:
    try:
        found = parse_json(read_bytes(root / _LOCK, max_bytes=_MAX_BYTES))
    except (OrchError, ValueError):
        return None
    match found:
        case {"pid": int(pid), "host": str(host), "since": str(since), "command": str(command)} if 0 < pid < 1 << 31:
            return Driver(pid, host, since, command)
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
