"""The closed folder of a local Ray: whose it is, and what becomes of one whose owner was killed.

The owner holds a lock on a file in it, which the operating system releases when the process dies, however it dies; so a
number that went to another process cannot mislead.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

HOME_PREFIX = "orch-"
_OWNER = "owner"

logger = logging.getLogger(__name__)


def own_home(home: Path) -> int:
    """Lock a new folder for this process, as long as the returned descriptor is open."""
    unnamed = home / f"{_OWNER}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unnamed.rename(home / _OWNER)  # locked before anybody can find it
    return descriptor


def clear_abandoned_homes(place: Path) -> None:
    """Remove folders below `place` that this user's killed processes left, and end what still runs in them."""
    for home in sorted(place.glob(f"{HOME_PREFIX}*")):
        with suppress(OSError):
            if home.is_symlink() or home.stat().st_uid != os.geteuid() or not _is_abandoned(home / _OWNER):
                continue
            logger.info("removing %s, whose owner is gone", home)
            end_processes(home)
            shutil.rmtree(home, ignore_errors=True)


def _is_abandoned(owner: Path) -> bool:
    """Whether nobody holds the lock; OSError where there is none."""
    descriptor = os.open(owner, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def end_processes(home: Path) -> None:
    """End every other process that logs under `home`: Ray forgets some when its start failed or was interrupted."""
    import psutil

    forgotten = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_other = process.pid != os.getpid()
            if is_other and any(Path(file.path).is_relative_to(home) for file in process.open_files()):
                forgotten.append(process)
    _, alive = psutil.wait_procs(forgotten, timeout=1.0)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=1.0)
