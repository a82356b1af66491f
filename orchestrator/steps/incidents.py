"""What befalls the units of a step, as events of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from orchestrator import events
from orchestrator.cluster import Incident

U = TypeVar("U")


def noted(
    root: Path, label: Callable[[U], str], subjects: Callable[[U], Sequence[str]]
) -> Callable[[Incident[U]], None]:
    """For `on_incident`: an event of each attempt that failed, which befell the `subjects` of its unit."""

    def note(incident: Incident[U]) -> None:
        events.record(
            root,
            events.Event(
                "given-up" if incident.is_final else "retried",
                subjects=tuple(subjects(incident.unit)),
                unit=label(incident.unit),
                attempt=incident.attempt,
                error=incident.error,
            ),
        )

    return note


def note_restart(root: Path, subjects: tuple[str, ...]) -> None:
    """An event where a worker that answers took the place of one that was lost, whose unit is asked of it again."""
    events.record(root, events.Event("retried", subjects=subjects, error="its worker was lost and started anew"))
