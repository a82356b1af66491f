"""What happened to a run, in logs/events.jsonl as it happens: starts and ends of its driver, retries, errors, clusters.

It is for `orch status` alone: nothing is decided by it, so a disk that refuses a line stops nobody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from orchestrator.credentials import without_credentials
from orchestrator.errors import StorageError
from orchestrator.storage import append_line

#: started, ended: a driver. joined: a cluster. retried, given-up: a unit of work.
Kind: TypeAlias = Literal["started", "joined", "retried", "given-up", "ended"]

#: Of a file that has grown beyond all bounds, the last events.
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Event:
    """One line. `subjects` are whom it befell, as `subject` names them; `time` is in seconds since 1970."""

    kind: Kind
    subjects: tuple[str, ...] = ()
    unit: str = ""
    attempt: int = 0
    error: str = ""
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


_EVENT = TypeAdapter(Event)


@dataclass(frozen=True)
class Trouble:
    """What befell one teacher, student or evaluation: attempts that failed and were made again, the last error."""

    retries: int = 0
    error: str = ""
    time: float = 0.0


@dataclass(frozen=True)
class History:
    """Everything of a file: the troubles by subject; the last driver's links, and the error that ended it."""

    troubles: Mapping[str, Trouble]
    links: Mapping[str, tuple[str, ...]]
    error: str
    time: float


def subject(role: Literal["teacher", "student", "evaluation"], name: str) -> str:
    """How events call it."""
    return f"{role} {name}"


def record(root: Path, event: Event) -> None:
    """Add one line."""
    discreet = replace(event, unit=without_credentials(event.unit), error=without_credentials(event.error))
    with suppress(StorageError):
        append_line(path_of(root), json.dumps(asdict(discreet), ensure_ascii=False))


def read(root: Path) -> list[Event]:
    """Every whole line, the oldest first."""
    path = path_of(root)
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValidationError):  # a line that a kill tore
            found.append(_EVENT.validate_json(line))
    return found


def history(events: Sequence[Event]) -> History:
    """What the events come to."""
    troubles: dict[str, Trouble] = {}
    links: Mapping[str, tuple[str, ...]] = {}
    ended = Event("ended", time=0.0)
    for event in events:
        match event.kind:
            case "started":
                links, ended = {}, Event("ended", time=event.time)
            case "joined":
                links = event.links
            case "ended":
                ended = event
            case "retried" | "given-up":
                for name in event.subjects:
                    retries = troubles.get(name, Trouble()).retries + (event.kind == "retried")
                    troubles[name] = Trouble(retries, event.error, event.time)
    return History(troubles, links, ended.error, ended.time)


def path_of(root: Path) -> Path:
    """Where the file lies."""
    return root / "logs" / "events.jsonl"
