"""Where stores lie, and which of them is that of a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from orchestrator.errors import OrchError, StoreError
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.manifest import MANIFEST, SHARDS
from orchestrator.signals.store import Store
from orchestrator.storage import Place, matching

_RECEIPT_NAME = re.compile(r"[0-9]{6}\.json")


def store_folder(signals: Place, teacher: str, fingerprint: Fingerprint) -> Place:
    """Where below `signals` the store of this teacher and fingerprint lies, or is to be made."""
    return signals / f"{teacher}-{fingerprint.digest}"


def find_store(signals: Place, teacher: str, fingerprint: Fingerprint) -> Store:
    """The store of this teacher and fingerprint below `signals`.

    Raises StoreError when there is none, which names what sets the nearest store of the teacher apart.
    """
    folder = store_folder(signals, teacher, fingerprint)
    if (folder / MANIFEST).exists():
        return Store.open(folder)
    others = list(_stores(signals, teacher))
    if not others:
        raise StoreError(f"there are no signals of teacher '{teacher}' in {signals}; run `orch precompute-teacher`")
    nearest = min(others, key=lambda store: store.fingerprint.num_differences(fingerprint))
    raise StoreError(
        f"there are no signals of teacher '{teacher}' for this configuration: the store {nearest.folder}"
        f" {nearest.fingerprint.difference(fingerprint)}; run `orch precompute-teacher`"
    )


def _stores(signals: Place, teacher: str) -> Iterator[Store]:
    """Every readable store of a teacher."""
    for path in matching(signals, f"{teacher}-{'[0-9a-f]' * 16}/{MANIFEST}"):
        with suppress(OrchError):
            yield Store.open(path.parent)


def count_receipts(folder: Place) -> int:
    """How many shards of the store in `folder` are there, by a look at the names of its files alone."""
    shards = folder / SHARDS
    return sum(1 for path in matching(shards, "*") if _RECEIPT_NAME.fullmatch(path.name))
