"""What is counted while work goes on, for whoever collects it in this process; when nobody does it costs nothing.

On a Ray cluster that is Ray (`cluster/ray_meters.py`), which offers it to Prometheus on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Meter:
    """counter: `add` is given what comes on top. gauge: the value as it is now. histogram: one measurement."""

    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()


#: Every meter of orch by name; Prometheus sees `ray_orch_units_total` for the counter `units`, and so on.
METERS: Mapping[str, Meter] = {
    "units": Meter("counter", "Units of work that ended", ("outcome",)),
    "unit_seconds": Meter("histogram", "How long units of work took"),
    "retries": Meter("counter", "Attempts at a unit that lost their worker and were made again"),
    "teacher_rows": Meter("counter", "Rows that a teacher has answered", ("teacher", "language")),
    "teacher_tokens": Meter("counter", "Tokens that a teacher has answered", ("teacher", "language")),
    "student_steps": Meter("counter", "Steps that a student was trained", ("student",)),
    "student_tokens": Meter("counter", "Tokens that a student was trained on", ("student",)),
    "student_loss": Meter("gauge", "Loss of a student, mean since it was logged before", ("student",)),
}


class Collector(Protocol):
    """Where counts go."""

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None: ...


_collectors: list[Collector] = []


def collect_with(collector: Collector | None) -> None:
    """Give what this process counts to `collector`, from now on; None: to nobody."""
    _collectors[:] = [] if collector is None else [collector]


def add(name: str, value: float, tags: Mapping[str, str] | None = None) -> None:
    """Count; `name` is one of METERS, `tags` have its keys."""
    for collector in _collectors:
        collector.add(name, value, tags or {})
