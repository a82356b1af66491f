"""Checkpoints go once a group is exported, whatever stops that, and nobody misses them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from orchestrator.config.setups import StudentSpec
from orchestrator.storage import hash_file
from orchestrator.students import checkpoint, worker
from orchestrator.students.build import BuiltGroup
from orchestrator.students.job import GroupJob, GroupResult
from tests.e2e.command import orch
from tests.e2e.conftest import copy_of
from tests.e2e.project import write_config
from tests.faults.conftest import Note
from tests.faults.disks import Crash
from tests.faults.figures import size

#: Three students that share their embedding, and their twins; checkpoints at every step, the last two are kept.
SETUP = ("--setup", "one-to-many")
TRAIN = ("train-students", *SETUP)
STEPS = 4
#: Each of the six has a folder and two checkpoints in it.
NUM_POINTS = 6 * 3
CHANGES: dict[str, object] = {
    "training": {
        "steps": STEPS,
        "tokens_per_batch": 128,
        "log_every": 1,
        "learning_rate": 1e-3,
        "threads": 1,
        "checkpoint_seconds": 1e-9,
    },
    "evaluation": {"max_texts": 2},
}


def ready(made_project: Path, shelf: Path) -> Path:
    """A project in which nothing but training is left to do; its text is known by where it lies, so it is no copy."""
    folder = copy_of(made_project, shelf)
    write_config(folder, CHANGES)
    for command in ("precompute-teacher", "build-vocab"):
        assert orch(command, *SETUP, folder=folder).status == 0
    return folder


@pytest.fixture
def project(made_project: Path, shelf: Path) -> Path:
    """One of one's own."""
    return ready(made_project, shelf)


@pytest.fixture(scope="module")
def undisturbed(made_project: Path, shelf: Path) -> Path:
    """The same, trained without a stop."""
    folder = ready(made_project, shelf)
    assert orch(*TRAIN, folder=folder).status == 0
    return folder


def students(project: Path) -> list[Path]:
    return sorted((project / "run").glob("students/*/*"))


def weights(project: Path) -> dict[str, str]:
    return {folder.name: hash_file(folder / "final" / "model.safetensors") for folder in students(project)}


def saved(project: Path) -> list[Path]:
    return [folder for folder in students(project) if (folder / "checkpoints").exists()]


def is_exported(folder: Path) -> bool:
    return (folder / "final" / "training.json").exists()


def when_logged(project: Path) -> list[int]:
    return [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in students(project)]


def test_what_is_exported_needs_no_checkpoint(undisturbed: Path) -> None:
    before = weights(undisturbed), when_logged(undisturbed)
    assert [is_exported(folder) for folder in students(undisturbed)] == [True] * 6
    assert not saved(undisturbed)
    for command in ("verify", "train-students", "evaluate", "report", "status"):
        result = orch(command, *SETUP, folder=undisturbed)
        assert (result.status, result.err) == (0, ""), command
    assert result.out.count(f"{STEPS}/{STEPS} steps") == 6
    assert (weights(undisturbed), when_logged(undisturbed)) == before


def test_more_steps_are_another_student(undisturbed: Path) -> None:
    result = orch(*TRAIN, "--set", f"training.steps={STEPS + 2}", folder=undisturbed)
    assert result.status == 1
    assert "steps 4, the configuration asks 6; move that folder away to train anew" in " ".join(result.err.split())


@pytest.mark.parametrize("fail_at", range(0, NUM_POINTS, size(7, 1)))
def test_a_stop_while_checkpoints_go(
    project: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, note: Note
) -> None:
    """The driver dies before or inside any of the folders; the next start removes the rest and trains none twice."""
    with monkeypatch.context() as patch:
        die_while_removing(patch, fail_at)
        with pytest.raises(Crash):
            orch(*TRAIN, folder=project)
    ended = {folder: (folder / "final").stat().st_ino for folder in students(project) if is_exported(folder)}
    assert len(ended) in (3, 6)  # one group or both
    assert saved(project)
    assert orch("verify", *SETUP, folder=project).status == 0
    assert orch(*TRAIN, folder=project).status == 0
    assert ended == {folder: (folder / "final").stat().st_ino for folder in ended}
    assert not saved(project)
    assert weights(project) == weights(undisturbed)
    note("checkpoints go with the export", f"stop at call {fail_at} of {NUM_POINTS}, the same students")


def die_while_removing(patch: pytest.MonkeyPatch, fail_at: int) -> None:
    """At one of the moments when a folder of checkpoints, or one of them, is about to go, and at all after it."""
    points, remove_all = itertools.count(), checkpoint.remove_all

    def point() -> None:
        if next(points) >= fail_at:
            raise Crash

    def remove(folder: Path) -> None:
        point()
        for step in checkpoint.steps(folder):
            (folder / f"step-{step:08d}" / "state.json").unlink()
            point()
        remove_all(folder)

    patch.setattr(checkpoint, "remove_all", remove)


def test_a_stop_between_the_exports_of_a_group(
    project: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first student of a group is exported, the second is not: all go on from the last checkpoint."""
    export = worker._export
    done: list[str] = []

    def export_one(job: GroupJob, built: BuiltGroup, student: StudentSpec, result: GroupResult) -> None:
        if done:
            raise Crash
        export(job, built, student, result)
        done.append(student.name)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_export", export_one)
        with pytest.raises(Crash):
            orch(*TRAIN, folder=project)
    assert [folder.name for folder in students(project) if is_exported(folder)] == done
    assert len(saved(project)) == 3
    assert orch(*TRAIN, folder=project).status == 0
    assert f"goes on from step {STEPS}" in (project / "run" / "logs" / "orch.log").read_text(encoding="utf-8")
    assert not saved(project)
    assert weights(project) == weights(undisturbed)
