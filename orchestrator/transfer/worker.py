"""The worker that fine-tunes and tests where there is room: cells that share a fine-tuning in, rows out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.transfer import TransferSection
from orchestrator.records import TransferRow
from orchestrator.transfer.job import Cell, Training
from orchestrator.transfer.measuring import measure
from orchestrator.transfer.state import TransferState
from orchestrator.transfer.tasks import Task, read_task


@dataclass(frozen=True)
class TransferUnit:
    """Cells of one task, by digest, that no other unit shares a fine-tuning with."""

    task: str
    source: str
    cells: Mapping[str, Cell]


def transfer_units(cells: Mapping[str, Cell], task: Task) -> list[TransferUnit]:
    """The cells apart by fine-tuning; those that listen to one tuned teacher stay together."""
    apart: dict[Training, dict[str, Cell]] = {}
    for digest, cell in cells.items():
        apart.setdefault(cell.training.teacher_training or cell.training, {})[digest] = cell
    return [TransferUnit(task.name, task.source, members) for members in apart.values()]


class TransferWorker:
    """Measures units of a run; each task is read once."""

    def __init__(self, options: TransferSection) -> None:
        self._options = options
        self._tasks: dict[tuple[str, str], Task] = {}

    def run(self, unit: TransferUnit) -> tuple[TransferRow, ...]:
        """Every figure of the unit's cells."""
        key = (unit.task, unit.source)
        if key not in self._tasks:
            self._tasks[key] = read_task(self._options.tasks[unit.task], name=unit.task, source=unit.source)
        rows: list[TransferRow] = []
        measure(unit.cells, self._tasks[key], self._options, state=TransferState(), write=rows.append)
        return tuple(rows)
