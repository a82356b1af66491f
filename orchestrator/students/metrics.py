"""What training says of itself: a line of metrics.jsonl and points in TensorBoard per logged step."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from orchestrator import meters
from orchestrator.errors import UnitError
from orchestrator.storage import append_line, read_bytes, write_bytes

_MAX_BYTES = 1 << 30


class StudentMetrics:
    """Sums between two logged steps of one student, then a line of metrics.jsonl and a point in TensorBoard.

    Values stay tensors until they are logged, so that no step waits for the device.
    """

    def __init__(self, folder: Path, *, student: str, step: int, tokens: int) -> None:
        """`step`, `tokens`: where training goes on; rows that were logged after that step are forgotten."""
        self._path = folder / "metrics.jsonl"
        self._student = student
        self._tokens, self._step = tokens, step
        _forget_after(self._path, step)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._reset()

    def add(self, value: Tensor, raw: Mapping[str, Tensor], *, num_tokens: int) -> None:
        """A step, or a part of one: its loss, and the raw sum of each term; both detached."""
        self._loss.append(value)
        for name, total in raw.items():
            self._raw[name].append(total)
        self._tokens += num_tokens

    def end_step(self, counts: Mapping[str, int], *, gradient_norm: Tensor, waited: float) -> None:
        """The end of a step: valid elements of each term that was computed, and seconds of waiting for the batches."""
        self._norms.append(gradient_norm)
        for name, number in counts.items():
            self._counts[name] += number
        self._waited += waited

    def check(self, step: int) -> None:
        """UnitError when a loss or a gradient since the last logged step is no finite number: it spoils the weights."""
        for what, values in (("loss", self._loss), ("gradient", self._norms)):
            value = float(torch.stack(values).sum()) if values else 0.0
            if not math.isfinite(value):
                raise UnitError(
                    f"The {what} of student '{self._student}' became {value} by step {step}; lower "
                    "training.learning_rate, or set training.precision: fp32, and train it anew."
                )

    def log(self, step: int, *, phase: str, rate: float) -> None:
        """Write the means since the last call; `rate` is the learning rate. UnitError as from `check`."""
        self.check(step)
        value = float(torch.stack(self._loss).sum()) / len(self._norms) if self._loss else 0.0
        terms = {name: float(torch.stack(sums).sum()) / max(1, self._counts[name]) for name, sums in self._raw.items()}
        seconds = time.monotonic() - self._started
        speed = (self._tokens - self._tokens_before) / seconds
        row = {
            "step": step,
            "student": self._student,
            "phase": phase,
            "loss": round(value, 6),
            "terms": {name: round(term, 6) for name, term in terms.items()},
            "tokens": self._tokens,
            "tokens_per_second": round(speed, 1),
            "data_wait_share": round(self._waited / seconds, 4),
            "learning_rate": rate,
        }
        append_line(self._path, json.dumps(row))
        self._count(step, value)
        self._board.add_scalar("loss", value, step)
        self._board.add_scalar("learning_rate", rate, step)
        self._board.add_scalar("tokens_per_second", speed, step)
        for name, term in terms.items():
            self._board.add_scalar(f"terms/{name}", term, step)
        self._reset()

    def _count(self, step: int, loss: float) -> None:
        """For whoever collects what this process counts."""
        tags = {"student": self._student}
        meters.add("student_steps", step - self._step, tags)
        meters.add("student_tokens", self._tokens - self._tokens_before, tags)
        meters.add("student_loss", loss, tags)
        self._step = step

    def close(self) -> None:
        """Flush TensorBoard."""
        self._board.close()

    def _reset(self) -> None:
        self._loss: list[Tensor] = []
        self._norms: list[Tensor] = []  # one per step
        self._raw: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)
        self._waited = 0.0
        self._started = time.monotonic()
        self._tokens_before = self._tokens


def _forget_after(path: Path, step: int) -> None:
    """Drop rows after `step`, and a last line that a kill tore; they will be logged again."""
    if not path.exists():
        return
    lines = read_bytes(path, max_bytes=_MAX_BYTES).decode(errors="replace").splitlines()
    kept = [line for line in lines if 0 < _step(line) <= step]
    if kept != lines:
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())


def _step(line: str) -> int:
    """The step of a row; 0 where the line is none."""
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["step"])
    return 0
