"""How far a table of transfer is, for those who watch; written by the work, read by another thread."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class TransferState:
    """Cells that are measured, and steps of all fine-tunings together."""

    cells_done: int = 0
    cells_total: int = 0
    steps_done: int = 0
    steps_total: int = 0
    tokens_per_second: float | None = None
    doing: str = ""
    _begun: float = 0.0
    _tokens: int = 0

    def step(self, tokens: int, begun: float) -> None:
        """A step of the fine-tuning that began at `begun` (monotonic seconds) read so many tokens."""
        if begun != self._begun:
            self._begun, self._tokens = begun, 0
        self._tokens += tokens
        self.steps_done += 1
        self.tokens_per_second = self._tokens / max(time.monotonic() - begun, 1e-9)
