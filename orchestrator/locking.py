"""One driver per run: a lock on the run's folder that the operating system releases when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.storage import make_folder


@contextmanager
def lock_run(root: Path) -> Iterator[None]:
    """Hold `root/.lock` for the length of the block.

    Raises:
        ClusterError: another process holds it; the text names that process and its host.
    """
    make_folder(root)
    with (root / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClusterError(
                f"{root} is in use by {_holder(root / '.lock')}; wait until it ends, or choose another run.root."
            ) from None
        file.truncate(0)
        file.write(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        )
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
