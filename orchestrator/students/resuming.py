"""Where a group stands, how that is kept in its students' checkpoints, and how it goes on from there."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from orchestrator.errors import StoreError
from orchestrator.students import checkpoint as checkpoints
from orchestrator.students.group import Parts, StudentGroup
from orchestrator.students.job import GroupJob
from orchestrator.students.stream import Cursor


@dataclass
class Standing:
    """How far a group has come. Nothing else is needed to go on: random numbers depend on seed, student and step."""

    step: int = 0
    seconds: float = 0.0
    tokens: dict[str, int] = field(default_factory=dict)  # student -> tokens read
    cursors: dict[str, Cursor] = field(default_factory=dict)  # student -> its place in the stream


def resume(job: GroupJob, group: StudentGroup, optimiser: torch.optim.Optimizer) -> Standing:
    """Load the last step that every student has whole into group and optimiser; the beginning if there is none.

    Raises:
        StoreError: a whole checkpoint belongs to other inputs, or holds other parameters than this group has.
    """
    folders = {student.name: job.folder(student.name) / "checkpoints" for student in job.group.students}
    found = checkpoints.load_latest(folders, fingerprint=job.fingerprint)
    if found is None:
        return Standing(tokens=dict.fromkeys(group.names, 0))
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for saved in found.values():
        weights |= saved.tensors["model"]
        moments |= saved.tensors["optimizer"]
    trained = group.trained()
    if _shapes(weights) != _shapes(trained):
        names = ", ".join(str(folder) for folder in folders.values())
        raise StoreError(f"The checkpoints in {names} hold other parameters than these students have; remove them.")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
    checkpoints.restore_optimiser(optimiser, trained, moments)
    first = next(iter(found.values()))
    logging.getLogger(__name__).info("group %s goes on from step %d", job.group.name, first.step)
    return Standing(
        step=first.step,
        seconds=first.seconds,
        tokens={name: saved.tokens for name, saved in found.items()},
        cursors={name: saved.cursor for name, saved in found.items()},
    )


def save(job: GroupJob, parts: Parts, optimiser: torch.optim.Optimizer, standing: Standing) -> None:
    """Write every student's checkpoint, and only then remove old ones; what is shared lies with its first user."""
    for student in job.group.students:
        mine = {name: p for users, part in parts.items() if users[0] == student.name for name, p in part.items()}
        checkpoints.save(
            job.folder(student.name) / "checkpoints",
            checkpoints.StudentCheckpoint(
                step=standing.step,
                tokens=standing.tokens[student.name],
                seconds=standing.seconds,
                cursor=standing.cursors[student.name],
                tensors={"model": dict(mine), "optimizer": checkpoints.optimiser_tensors(optimiser, mine)},
            ),
            fingerprint=job.fingerprint,
        )
    for student in job.group.students:
        checkpoints.prune(job.folder(student.name) / "checkpoints", keep=job.training.keep_checkpoints)


def _shapes(tensors: dict[str, Tensor] | dict[str, torch.nn.Parameter]) -> dict[str, torch.Size]:
    """Name -> shape."""
    return {name: tensor.shape for name, tensor in tensors.items()}
