"""A worker that writes made-up shards and meets all sorts of trouble on the way; no torch, so it starts at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.cluster import Cluster, Need, Outcome
from orchestrator.records import SignalRequest, Unit
from orchestrator.signals import Store
from orchestrator.signals.manifest import Receipt
from orchestrator.storage import Disk
from orchestrator.storage import local as storage
from tests.faults.disks import FaultyDisk
from tests.signals.samples import hidden, make_tables

REQUEST = SignalRequest(top_k=4, states=hidden(3))

#: What becomes of a unit: every time, or the first time that it is tried.
Trouble = Literal["crash", "raise", "hang", "memory", "stop once", "crash once"]


class DeadlyDisk(FaultyDisk):
    """Kills the process at one call."""

    def fault(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shard of a unit. Attempts are noted in a folder: a line with process and time for each."""

    store: Path
    notes: Path
    trouble: Mapping[int, Trouble] = field(default_factory=dict)
    dies_at: Mapping[int, int] = field(default_factory=dict)  # unit -> call to the disk that kills it, once
    seconds: float = 0.0

    def __call__(self) -> ShardWriter:
        """It makes itself, as the cluster wants it."""
        return self

    def run(self, unit: Unit) -> Receipt:
        attempt = self._attempt(unit.index)
        match self.trouble.get(unit.index):
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise ValueError(f"text {unit.first_text} is poison")
            case "hang":
                time.sleep(3600)
            case "memory":
                raise MemoryError
            case "stop once" if attempt == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            case "crash once" if attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        storage.disk = DeadlyDisk(self.dies_at[unit.index]) if attempt == 1 and unit.index in self.dies_at else Disk()
        return Store.open(self.store).write(unit, make_tables(unit, REQUEST))

    def _attempt(self, index: int) -> int:
        path = self.notes / f"{index}"
        with path.open("a") as file:
            file.write(f"{os.getpid()} {time.time()}\n")
        return len(attempts(self.notes, index))


def attempts(notes: Path, index: int) -> list[tuple[int, float]]:
    """(process, when) of every attempt at a unit."""
    lines = (notes / f"{index}").read_text().splitlines()
    return [(int(process), float(when)) for process, when in map(str.split, lines)]


def run(
    cluster: Cluster, writer: ShardWriter, *, workers: int = 3, deadline_seconds: float = 120.0
) -> list[Outcome[Unit, Receipt]]:
    """Every unit of the store that is missing, with three attempts each."""
    writer.notes.mkdir(exist_ok=True)
    return list(
        cluster.run_units(
            writer,
            Store.open(writer.store).missing(),
            need=Need(1.0),
            workers=workers,
            deadline_seconds=deadline_seconds,
            max_attempts=3,
            label=lambda unit: f"shard {unit.index}",
        )
    )
