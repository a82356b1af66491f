"""A student whose process is killed at random moments, also inside a checkpoint, ends with the same bits."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orchestrator.storage import local as storage
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from tests.faults.conftest import Note
from tests.faults.disks import FaultyDisk
from tests.faults.figures import SEED, size
from tests.faults.work import DeadlyDisk
from tests.students.test_resume import digests, latest, two_students
from tests.students.tiny import World, make_world

pytestmark = pytest.mark.timeout(3600)  # seconds when nobody else computes

#: Its processes begin with torch loaded and nothing computed yet.
_fresh = multiprocessing.get_context("forkserver")
_fresh.set_forkserver_preload(["tests.faults.test_resume"])


def train(job: GroupJob, fail_at: int | None) -> None:
    """Train in a process of its own; killed at call `fail_at` to the disk, half of a write done."""
    torch.set_num_threads(1)
    storage.disk = DeadlyDisk(fail_at)
    train_group(job)


def in_a_process(job: GroupJob, *, fail_at: int | None = None, seconds: float | None = None) -> bool:
    """Whether it came to its end before it was killed: at a call to the disk, or after so many seconds."""
    process = _fresh.Process(target=train, args=(job, fail_at))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "disk", FaultyDisk())
        yield make_world(tmp_path_factory.mktemp("world"))


def test_a_student_resumes_bitwise(world: World, tmp_path: Path, note: Note) -> None:
    undisturbed = two_students(world, tmp_path / "undisturbed", steps=8)
    disk, threads = FaultyDisk(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "disk", disk)
        torch.set_num_threads(1)
        began = time.monotonic()
        train_group(undisturbed)
        whole_seconds = time.monotonic() - began
        torch.set_num_threads(threads)
    expected = digests(undisturbed)

    own, trials, num_kills, num_inside = random.Random(SEED), size(2, 20), 0, 0
    for trial in range(trials):
        job = two_students(world, tmp_path / str(trial), steps=8)
        for turn in range(2):
            if (trial + turn) % 2:
                ended = in_a_process(job, seconds=own.uniform(0.3, 1.2) * whole_seconds + 0.5)
            else:
                ended = in_a_process(job, fail_at=own.randrange(disk.num_calls // 2))
                num_inside += not ended
            num_kills += not ended
        assert in_a_process(job)
        assert digests(job) == expected, f"trial {trial}"
        assert latest(job) == 8
    assert num_kills > 0
    note(
        "a student resumes bitwise",
        f"{trials} of {trials} equal after {num_kills} kills, {num_inside} of them inside a write",
    )
