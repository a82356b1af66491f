"""What each step cost, kept in logs/costs.jsonl: for the report, and for estimates of what is to come."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter, ValidationError

from orchestrator.storage import Place, append_line, read_lines

#: Units between which nothing was done for longer than this belong to different starts of the driver.
_PAUSE_SECONDS = 60.0
_RECENT_UNITS = 24


@dataclass(frozen=True)
class UnitCost:
    """One unit of teacher work: `seconds` of its worker, `tokens` and `rows` of all masked copies, `num_bytes` on disk.

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
    rows: int = 0
    finished: float = field(default_factory=time.time)


_COST = TypeAdapter(UnitCost)


def record(root: Place, cost: UnitCost) -> None:
    """Add one line."""
    append_line(_path(root), json.dumps(asdict(cost)))


def read(root: Place) -> list[UnitCost]:
    """Every whole line in the order of completion; the last one of a unit that was computed twice."""
    found: dict[tuple[str, int], UnitCost] = {}
    for line in read_lines(_path(root)):
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


def tokens_per_worker(units: Sequence[UnitCost]) -> float | None:
    """Of one worker, over the same units; None without any."""
    recent = units[-_RECENT_UNITS:]
    seconds = sum(unit.seconds for unit in recent)
    return sum(unit.tokens for unit in recent) / seconds if seconds else None


def _path(root: Place) -> Place:
    return root / "logs" / "costs.jsonl"
