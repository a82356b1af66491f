"""One writer at a time on an object store: a lease that its holder renews, and that ends when nobody does.

Lease n is the object `<folder>/000n`, which can be made once: whoever makes it holds it. It may be made when lease
n - 1 was given back, or was not renewed for a minute by the clock of the service. Nothing is compared and swapped.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from orchestrator.errors import StorageError
from orchestrator.storage import remote
from orchestrator.storage.local import parse_json
from orchestrator.storage.remote import RemotePath

_log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
_RENEWALS = 3  # in the time of a lease
_MOST_BYTES = 1 << 16
_ATTEMPTS = 5


class TakenError(Exception):
    """Somebody else holds the lease; the text is what they said of themselves, `renewed` which lease, and when."""

    def __init__(self, holder: str, renewed: tuple[RemotePath, datetime] | None = None) -> None:
        super().__init__(holder)
        self.renewed = renewed


@contextmanager
def hold(folder: RemotePath, *, holder: str) -> Iterator[None]:
    """Hold the lease of `folder` for the length of the block.

    A lease that is held is watched until it is renewed, or ends because its holder was killed. Raises TakenError, or
    StorageError when the service makes the same object twice.
    """
    path, token = _take_when_free(folder, holder)
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, holder, token, stop), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        with suppress(StorageError):  # it ends by itself
            remote.put_bytes(path, _record(holder, token, is_held=False))


def holder_of(folder: RemotePath) -> str | None:
    """Who holds the lease, by the clock of this machine, since a look writes nothing; None when nobody does."""
    for path in _taken(folder)[-1:]:
        with suppress(StorageError):  # cleared away in this moment
            if time.time() - remote.modified(path).timestamp() < LEASE_SECONDS:
                return _held(path)
    return None


def _taken(folder: RemotePath) -> list[RemotePath]:
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def _take_when_free(folder: RemotePath, holder: str) -> tuple[RemotePath, str]:
    seen: tuple[RemotePath, datetime] | None = None
    while True:
        try:
            return _take(folder, holder)
        except TakenError as taken:
            if taken.renewed is None or (seen is not None and seen != taken.renewed):
                raise
            if seen is None:
                _log.warning(
                    "%s is held by %s; waiting for at most %.0f seconds, in case that was killed",
                    folder.parent,
                    taken,
                    LEASE_SECONDS,
                )
            seen = taken.renewed
        time.sleep(LEASE_SECONDS / _RENEWALS / 4)


def _take(folder: RemotePath, holder: str) -> tuple[RemotePath, str]:
    token = secrets.token_hex(16)
    for _ in range(_ATTEMPTS):
        older = _taken(folder)
        if older:
            _check_free(older[-1])
        path = folder / f"{int(older[-1].name) + 1 if older else 1:06d}"
        if not remote.create(path, _record(holder, token, is_held=True)):
            continue
        if remote.create(path, _record(holder, secrets.token_hex(16), is_held=True)):
            path.unlink()
            raise StorageError(
                f"{path} could be made twice: this service ignores conditional puts, so two runs could write at once; "
                "take another service for run.stores, or a folder"
            )
        for other in _taken(folder):
            if other < path:
                with suppress(StorageError):
                    other.unlink()
        if _taken(folder)[-1:] > [path]:
            path.unlink()  # others went on while this process slept before it made a lease that had been cleared away
            continue
        return path, token
    raise TakenError("another process")


def _check_free(path: RemotePath) -> None:
    """Raise TakenError unless the lease was given back or ran out."""
    try:
        holder, renewed = _held(path), remote.modified(path)
    except StorageError:
        if path.exists():
            raise
        return  # somebody just took the next one
    if holder is not None and _now(path.parent) - renewed.timestamp() < LEASE_SECONDS:
        raise TakenError(holder, (path, renewed))


def _held(path: RemotePath) -> str | None:
    """What the holder of a lease said of itself; None when it was given back, or is damaged."""
    data = remote.get_bytes(path, max_bytes=_MOST_BYTES)
    with suppress(ValueError):
        match parse_json(data):
            case {"holder": str(holder), "held": True}:
                return holder
    return None


def _now(folder: RemotePath) -> float:
    """The clock of the service, as an object says that is put now."""
    probe = folder / f"clock-{secrets.token_hex(8)}"
    remote.put_bytes(probe, b"now")
    try:
        return remote.modified(probe).timestamp()
    finally:
        probe.unlink()


def _renew(path: RemotePath, holder: str, token: str, stop: threading.Event) -> None:
    """Until `stop`. Units give the same bytes whoever computes them, so a lease that is lost costs work, not data."""
    while not stop.wait(LEASE_SECONDS / _RENEWALS):
        try:
            if _taken(path.parent)[-1:] > [path]:
                _log.warning("%s was not renewed in time and taken over; both go on, and do some work twice", path)
                return
            remote.put_bytes(path, _record(holder, token, is_held=True))
        except StorageError as error:
            _log.warning("the lease cannot be renewed: %s", error)


def _record(holder: str, token: str, *, is_held: bool) -> bytes:
    return json.dumps({"holder": holder, "held": is_held, "token": token}).encode()
