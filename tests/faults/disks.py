"""Disks that fail at one chosen call: by an error of the system, or by a crash that also loses what was not synced."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from orchestrator.storage import Disk


class Crash(BaseException):
    """The process is gone; no handler of the program may swallow it."""


class FaultyDisk(Disk):
    """Counts its calls and fails at call number `fail_at`; a real fsync is never made, for speed."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.num_calls = 0
        self.failed = False
        self.paths: dict[int, Path] = {}

    def fault(self) -> None:
        """What happens at the chosen call."""
        raise NotImplementedError

    def step(self) -> None:
        self.num_calls += 1
        if self.num_calls - 1 == self.fail_at:
            self.failed = True
            self.fault()

    def open(self, path: Path, flags: int) -> int:
        self.step()
        descriptor = super().open(path, flags)
        self.paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        try:
            self.step()
        except BaseException:
            super().write(descriptor, data[: len(data) // 2])  # a write that fails may have written some
            raise
        return super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.step()

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self.paths.pop(descriptor, None)
        self.step()

    def rename(self, source: Path, target: Path) -> None:
        self.step()
        super().rename(source, target)

    def make_folder(self, folder: Path) -> None:
        self.step()
        super().make_folder(folder)

    def remove(self, path: Path) -> None:
        self.step()
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self.step()


class RefusingDisk(FaultyDisk):
    """Refuses one call with an input/output error, and works again afterwards."""

    number = errno.EIO

    def fault(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


class FullDisk(RefusingDisk):
    """Has no room for one call."""

    number = errno.ENOSPC


class CrashingDisk(FaultyDisk):
    """Crashes at one call and at all after it; `lose_power` then undoes whatever was not synced."""

    def __init__(self, fail_at: int) -> None:
        super().__init__(fail_at)
        self.unsynced: set[Path] = set()
        self.undo: list[tuple[Path, Callable[[], None]]] = []  # (folder that must be synced, how to undo)

    def step(self) -> None:
        if self.failed:
            raise Crash
        super().step()

    def fault(self) -> None:
        raise Crash

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        self.unsynced.add(path)
        return descriptor

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        self.unsynced.discard(self.paths[descriptor])

    def rename(self, source: Path, target: Path) -> None:
        before = target.read_bytes() if target.exists() else None
        super().rename(source, target)
        if source in self.unsynced:
            self.unsynced.remove(source)
            self.unsynced.add(target)

        def undo() -> None:
            target.replace(source)
            if before is not None:
                target.write_bytes(before)

        self.undo.append((target.parent, undo))

    def make_folder(self, folder: Path) -> None:
        super().make_folder(folder)
        self.undo.append((folder.parent, lambda: shutil.rmtree(folder)))

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self.undo = [(parent, undo) for parent, undo in self.undo if parent != folder]

    def lose_power(self) -> None:
        """What a machine without power may forget: content that was not synced, names in folders that were not.

        Disks reorder: after every other call the newest name is kept while older ones are lost.
        """
        for path in self.unsynced:
            if path.exists():
                os.truncate(path, path.stat().st_size // 2)
        lost = self.undo[:-1] if self.num_calls % 2 else self.undo
        for _, undo in reversed(lost):
            undo()
