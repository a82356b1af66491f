"""What each step cost, kept in logs/costs.jsonl: for the report, and for estimates of what is to come."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.storage import append_line, read_bytes

_MAX_BYTES = 1 << 28
#: Units between which nothing was done for longer than this belong to different starts of the driver.
_PAUSE_SECONDS = 60.0
_RECENT_UNITS = 24


@dataclass(frozen=True)
class UnitCost:
    """One unit of teacher work: `seconds` of its worker, `tokens` of all masked copies, `num_bytes` on disk.

    `finished` is in seconds since 1970.
    """

    teacher: str
    language: str
    shard: int
    tokens: int
    masked: int
    num_bytes: int
    seconds: float
    attempts: int
    finished: float = field(default_factory=time.time)


_COST = TypeAdapter(UnitCost)


def record(root: Path, cost: UnitCost) -> None:
    """Add one line."""
    append_line(_path(root), json.dumps(asdict(cost)))


def read(root: Path) -> list[UnitCost]:
    """Every whole line in the order of completion; the last one of a unit that was computed twice."""
    path = _path(root)
    if not path.exists():
        return []
    found: dict[tuple[str, int], UnitCost] = {}
    for line in read_bytes(path, max_bytes=_MAX_BYTES).splitlines():
        try:
            cost = _COST.validate_json(line)
        except ValidationError:
            continue  # a line that a kill tore
        found[cost.teacher, cost.shard] = cost
    return sorted(found.values(), key=lambda cost: cost.finished)


def tokens_per_second(units: Sequence[UnitCost]) -> float | None:
    """Of all workers together, over the last units (in the order of completion) without a pause; None without any."""
    recent: list[UnitCost] = []
    begin = float("inf")
    for unit in reversed(units[-_RECENT_UNITS:]):
        if recent and unit.finished < begin - _PAUSE_SECONDS:
            break
        recent.append(unit)
        begin = min(begin, unit.finished - unit.seconds)
    if not recent:
        return None
    return sum(unit.tokens for unit in recent) / max(recent[0].finished - begin, 1e-3)


def _path(root: Path) -> Path:
    return root / "logs" / "costs.jsonl"
