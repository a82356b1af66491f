"""What each step cost, kept in logs/costs.jsonl: for the report, and for estimates of what is to come."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.storage import append_line


@dataclass(frozen=True)
class UnitCost:
    """One unit of teacher work: `seconds` of its worker, `tokens` of all masked copies, `num_bytes` on disk."""

    teacher: str
    language: str
    shard: int
    tokens: int
    masked: int
    num_bytes: int
    seconds: float
    attempts: int


def record(root: Path, cost: UnitCost) -> None:
    """Add one line."""
    append_line(_path(root), json.dumps(asdict(cost)))


def read(root: Path) -> list[UnitCost]:
    """Every whole line; the last one of a unit that was computed twice."""
    path = _path(root)
    if not path.exists():
        return []
    found: dict[tuple[str, int], UnitCost] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            cost = UnitCost(**json.loads(line))
        except (ValueError, TypeError):
            continue  # a line that a kill tore
        found[cost.teacher, cost.shard] = cost
    return list(found.values())


def _path(root: Path) -> Path:
    return root / "logs" / "costs.jsonl"
