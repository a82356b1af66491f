"""The units that a step gave up, by name and with their texts, in logs/given-up.json until they are done after all."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from orchestrator.cluster import Outcome
from orchestrator.errors import OrchError, UnitError
from orchestrator.records import Unit
from orchestrator.signals.manifest import Receipt
from orchestrator.signals.store import Store
from orchestrator.storage import Place, read_bytes, write_bytes

_log = logging.getLogger(__name__)

_MOST_NAMED = 20
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class GivenUp:
    """A unit without a shard: `file` is where its receipt would lie, its texts are `first_text` to `last_text`."""

    teacher: str
    shard: int
    file: str
    language: str
    first_text: int
    last_text: int
    attempts: int
    reason: str
    since: str

    @property
    def name(self) -> str:
        """How messages call it."""
        texts = f"texts {self.first_text} to {self.last_text} of {self.language}"
        return f"shard {self.shard} of teacher '{self.teacher}' ({texts}, {self.file})"


_LIST = TypeAdapter(list[GivenUp])


def path_of(stores: Place) -> Place:
    """Where the list lies."""
    return stores / "logs" / "given-up.json"


def read(stores: Place) -> list[GivenUp]:
    """The list as the last start left it; empty where nothing was given up."""
    with suppress(OrchError, ValidationError):  # it decides nothing
        return _LIST.validate_json(read_bytes(path_of(stores), max_bytes=_MAX_BYTES))
    return []


def remind(stores: Place, units: Sequence[Unit]) -> None:
    """Say which of the units were given up before: they are tried again, since what was wrong may be mended."""
    due = {(unit.teacher, unit.index) for unit in units}
    for one in read(stores):
        if (one.teacher, one.shard) in due:
            _log.warning("%s was given up on %s and is tried again: %s", one.name, one.since, one.reason)


def settle(root: Place, stores: Mapping[str, Store], lost: Sequence[Outcome[Unit, Receipt]], *, num_units: int) -> None:
    """Keep the list, or remove it when nothing is on it.

    Raises:
        UnitError: some units were given up; each is named with its reason.
    """
    path = path_of(root)
    if not lost:
        if path.exists():
            path.unlink()
        return
    found = [_entry(stores[outcome.unit.teacher], outcome) for outcome in lost]
    write_bytes(path, json.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False).encode())
    named = "; ".join(f"{one.name}: {one.reason}" for one in found[:_MOST_NAMED])
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise UnitError(
        f"{len(found)} of {num_units} shards were given up: {named}{more}. All others are kept, these are listed in "
        f"{path}; mend that and run the same command again."
    )


def listed(units: Sequence[Unit]) -> str:
    """Units that are missing, by shard."""
    shards: dict[str, list[int]] = {}
    for unit in units:
        shards.setdefault(unit.teacher, []).append(unit.index)
    return "; ".join(
        f"{len(found)} of '{teacher}' ({', '.join(map(str, found[:_MOST_NAMED]))}{', …' * (len(found) > _MOST_NAMED)})"
        for teacher, found in shards.items()
    )


def _entry(store: Store, outcome: Outcome[Unit, Receipt]) -> GivenUp:
    unit = outcome.unit
    return GivenUp(
        teacher=unit.teacher,
        shard=unit.index,
        file=str(store.receipt_path(unit.index)),
        language=unit.language,
        first_text=unit.first_text,
        last_text=unit.first_text + unit.num_texts - 1,
        attempts=outcome.attempts,
        reason=(outcome.error or "it gave no receipt").strip(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )
