"""Killed at any call to the disk, a group goes on and ends with the very bytes of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.models import InitialisationSection, ShareSection
from orchestrator.errors import StoreError
from orchestrator.storage import local as storage
from orchestrator.students import checkpoint as checkpoints
from orchestrator.students.build import build_group
from orchestrator.students.job import GroupJob
from orchestrator.students.loop import train_group
from orchestrator.students.optimising import make_optimiser
from orchestrator.students.resuming import Standing, save
from tests.faults.disks import Crash, CrashingDisk, FaultyDisk
from tests.students.tiny import ALL, MASKED_LM, SOFT, STUDENT, World, make_job, student, with_training

DROPOUT = STUDENT.model_copy(update={"dropout": 0.2, "initialisation": InitialisationSection(embedding="random")})
NUM_KILLS = 12


def two_students(world: World, root: Path, **training: object) -> GroupJob:
    """Two students that share their embedding and projections, with dropout, languages drawn, several micro-batches."""
    students = (
        student("ann", "aa", "bb", template=DROPOUT),
        student("bob", "bb", template=DROPOUT, objectives=(MASKED_LM, SOFT)),
    )
    options = {"steps": 5, "accumulation": 2, "keep_checkpoints": 1} | training
    return make_job(world, root, *students, share=ShareSection(parts=("embedding", "layer-2")), **options)


def digests(job: GroupJob) -> dict[str, str]:
    """sha256 of every weight and moment of the last step, and where each stream stands."""
    found = {}
    for one in job.group.students:
        folder = job.folder(one.name) / "checkpoints" / f"step-{job.training.steps:08d}"
        for file in ("model.safetensors", "optimizer.safetensors"):
            found[f"{one.name}/{file}"] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        state = json.loads((folder / "state.json").read_text())
        found[f"{one.name}/state"] = f"{state['tokens']} {state['cursor']}"
    return found


def logged(job: GroupJob, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (job.folder(name) / "metrics.jsonl").read_text().splitlines()]


def latest(job: GroupJob) -> int:
    folders = {one.name: job.folder(one.name) / "checkpoints" for one in job.group.students}
    found = checkpoints.load_latest(folders, fingerprint=job.fingerprint)
    return next(iter(found.values())).step if found is not None else 0


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], FaultyDisk]:
    job = two_students(world, tmp_path_factory.mktemp("undisturbed"))
    disk = FaultyDisk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "disk", disk)
        train_group(job)
    return digests(job), disk


def test_two_runs_are_the_same(world: World, tmp_path: Path, undisturbed: tuple[dict[str, str], FaultyDisk]) -> None:
    job = two_students(world, tmp_path)
    train_group(job)
    assert digests(job) == undisturbed[0]
    assert [row["step"] for row in logged(job, "ann")] == [2, 4, 5]
    other = two_students(world, tmp_path / "other")
    train_group(replace(other, seed=6))
    assert digests(other) != undisturbed[0]


@pytest.mark.parametrize("kill", range(NUM_KILLS))
def test_a_killed_group_goes_on_bit_by_bit(
    world: World,
    tmp_path: Path,
    undisturbed: tuple[dict[str, str], FaultyDisk],
    monkeypatch: pytest.MonkeyPatch,
    kill: int,
) -> None:
    """Kills are spread over all calls to the disk; power is lost with them, and a second kill follows the first."""
    expected, counted = undisturbed
    job = two_students(world, tmp_path)
    first = round((kill + 0.5) * counted.num_calls / NUM_KILLS)
    steps = []
    for fail_at in (first, 23):
        disk = CrashingDisk(fail_at)
        monkeypatch.setattr(storage, "disk", disk)
        try:
            train_group(job)
        except Crash:
            disk.lose_power()
        monkeypatch.setattr(storage, "disk", FaultyDisk())
        steps.append(latest(job))
    assert steps == sorted(steps)
    train_group(job)
    assert digests(job) == expected
    assert latest(job) == job.training.steps
    for name in ("ann", "bob"):
        found = [row["step"] for row in logged(job, name)]
        assert found == sorted(set(found))
        assert set(found) <= {2, 4, 5}
        assert found[-1] == 5


def test_a_kill_while_saving_leaves_the_new_step_or_the_old_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with only one checkpoint kept: the old one stays until every student has the new one."""
    job = two_students(world, tmp_path)
    parts = build_group(job).module.parts()
    optimiser = make_optimiser([parameter for part in parts.values() for parameter in part.values()], job.training)
    names = [one.name for one in job.group.students]

    def save_step(step: int, disk: FaultyDisk) -> None:
        monkeypatch.setattr(storage, "disk", disk)
        standing = Standing(step, 0.0, dict.fromkeys(names, step), {name: {"bb": (0, 0, step)} for name in names})
        with suppress(Crash):
            save(job, parts, optimiser, standing)

    save_step(1, FaultyDisk())
    found = []
    for fail_at in range(200):
        disk = CrashingDisk(fail_at)
        save_step(2, disk)
        found.append(latest(job))
        if not disk.failed:
            break
        for name in names:
            checkpoints.remove(job.folder(name) / "checkpoints", 2)
        save_step(1, FaultyDisk())
    assert set(found) == {1, 2}
    assert found == sorted(found)
    assert len(found) > 40


def test_damaged_checkpoints_are_passed_over(
    world: World, tmp_path: Path, undisturbed: tuple[dict[str, str], FaultyDisk], caplog: pytest.LogCaptureFixture
) -> None:
    job = two_students(world, tmp_path, keep_checkpoints=5)
    train_group(job)
    anns, bobs = (job.folder(name) / "checkpoints" for name in ("ann", "bob"))
    (bobs / "step-00000005" / "state.json").unlink()
    (anns / "step-00000004" / "optimizer.safetensors").write_bytes(b"torn")
    with caplog.at_level(logging.INFO):
        train_group(job)
    assert "goes on from step 3" in caplog.text
    assert str(anns / "step-00000004" / "optimizer.safetensors") in caplog.text
    assert digests(job) == undisturbed[0]
    assert [row["step"] for row in logged(job, "ann")] == [2, 4, 5]


def test_a_finished_group_is_not_trained_again(world: World, tmp_path: Path) -> None:
    job = two_students(world, tmp_path, steps=3)
    built, result = train_group(job)
    again, result_again = train_group(job)
    assert result_again.tokens == result.tokens
    assert result_again.seconds == pytest.approx(result.seconds, abs=1e-6)
    for name in ("ann", "bob"):
        weights = again.module.encoder(name).state_dict()
        for key, tensor in built.module.encoder(name).state_dict().items():
            assert bool((tensor == weights[key]).all())


def test_checkpoints_of_other_inputs_are_refused(world: World, tmp_path: Path) -> None:
    job = make_job(world, tmp_path, student("ann", "aa"), steps=2)
    train_group(job)
    with pytest.raises(StoreError, match=r"ann/checkpoints/step-00000002 belongs to a run with other inputs"):
        train_group(replace(job, fingerprint="fedcba9876543210"))
    wider = make_job(world, tmp_path, student("ann", "aa", template=STUDENT.model_copy(update={"layers": 3})), steps=2)
    with pytest.raises(StoreError, match=r"ann/checkpoints hold other parameters"):
        train_group(wider)


def test_checkpoints_are_written_by_the_clock_and_at_the_end(world: World, tmp_path: Path) -> None:
    job = make_job(world, tmp_path, student("ann", "aa", objectives=ALL[:1]), checkpoint_seconds=1000.0)
    train_group(job)
    assert checkpoints.steps(job.folder("ann") / "checkpoints") == [6]
    often = with_training(replace(job, root=tmp_path / "often"), checkpoint_seconds=1e-9, keep_checkpoints=3)
    train_group(often)
    assert checkpoints.steps(often.folder("ann") / "checkpoints") == [4, 5, 6]
    assert digests(often) == digests(job)
