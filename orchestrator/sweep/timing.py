"""The baseline that trains for as long as the reference took: how many steps that is, decided once and written down.

Steps are the reference's seconds over the seconds per step of the student without a teacher, of the same seed, both by
their own logs of training. The number depends on the machine, so it stays what it was at first: the file
`timed/seed-<seed>.json` under the sweep's root says it, and what it was made from.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, PositiveInt, ValidationError

from orchestrator.errors import ConfigError, OrchError, StoreError
from orchestrator.report.reading import read_training
from orchestrator.run import Run, make_run
from orchestrator.steps.exports import student_receipt
from orchestrator.storage import read_bytes, write_bytes
from orchestrator.sweep.spec import TIMED, TIMED_BY

_log = logging.getLogger(__name__)


class _Measured(BaseModel):
    """One training, by its log."""

    cell: str
    steps: PositiveInt
    seconds: float


class _Decision(BaseModel):
    """The file: the steps, and the trainings that they come from."""

    steps: PositiveInt
    reference: _Measured
    no_teacher: _Measured


def decided_steps(root: Path, seed: int, *, reference: str) -> int | None:
    """How many steps the baseline has, None as long as nobody has decided.

    Raises:
        StoreError: the file is damaged.
        ConfigError: they were decided by another reference.
    """
    path = _path(root, seed)
    if not path.exists():
        return None
    try:
        found = _Decision.model_validate_json(read_bytes(path, max_bytes=1 << 20))
    except ValidationError:
        raise StoreError(f"{path} is damaged; remove it and the cell {TIMED} to decide its steps anew.") from None
    if found.reference.cell != reference:
        raise ConfigError(
            f"{path}: the steps of {TIMED} were decided by the time of '{found.reference.cell}', and the reference is "
            f"'{reference}' now; remove the file and the cell {TIMED} to decide anew, or take that reference again."
        )
    return found.steps


def decide_steps(root: Path, seed: int, *, reference: tuple[str, Run], other: Run) -> None:
    """Write down how many steps of `other`, the student without a teacher, take as long as the `reference` did.

    Raises:
        OrchError: one of the two is not trained to its end; the text names it.
    """
    path = _path(root, seed)
    if path.exists():
        return
    long, slow = _measured(reference[0], seed, reference[1]), _measured(TIMED_BY, seed, other)
    steps = max(1, round(long.seconds * slow.steps / slow.seconds))
    decision = _Decision(steps=steps, reference=long, no_teacher=slow)
    write_bytes(path, decision.model_dump_json(indent=1).encode())
    _log.info("%s, seed %d: %d steps take as long as %d of %s", TIMED, seed, steps, long.steps, long.cell)


def with_steps(run: Run, steps: int) -> Run:
    """The same run with another number of steps."""
    training = run.config.training.model_copy(update={"steps": steps})
    return make_run(run.config.model_copy(update={"training": training}), address=run.address)


def training_seconds(run: Run) -> float | None:
    """What the training of a run took by its logs, None before it began; evaluation is no part of it.

    Students of one group are stepped together, so that the time of each is that of all; groups follow one another.
    """
    logs = {log.student: log.seconds for log in read_training(run.root) if log.setup == run.expanded.setup}
    times = [[logs[one.name] for one in group.students if one.name in logs] for group in run.expanded.groups]
    return sum(max(of_group) for of_group in times if of_group) if any(times) else None


def _measured(cell: str, seed: int, run: Run) -> _Measured:
    seconds = training_seconds(run)
    names = [student.name for student in run.expanded.students]
    if not seconds or any(student_receipt(run.students_folder / name) is None for name in names):
        raise OrchError(f"it waits for {cell}, seed {seed}, which is not trained to its end.")
    return _Measured(cell=cell, steps=run.config.training.steps, seconds=seconds)


def _path(root: Path, seed: int) -> Path:
    return root / "timed" / f"seed-{seed}.json"
