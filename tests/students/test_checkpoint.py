"""Checkpoints of one student: whole, pruned, damaged, foreign."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from orchestrator.errors import StorageError, StoreError
from orchestrator.students import checkpoint as checkpoints
from orchestrator.students.checkpoint import OtherInputsError, StudentCheckpoint


def make(step: int, *, seed: int = 0) -> StudentCheckpoint:
    own = torch.Generator().manual_seed(seed * 1000 + step)
    return StudentCheckpoint(
        step=step,
        tokens=step * 100,
        seconds=0.1 * step,
        cursor={"aa": (0, 1, step), "bb": (3, 0, 0)},
        tensors={
            "model": {"weight": torch.randn(3, 4, generator=own).T},
            "optimizer": {"weight|step": torch.tensor(float(step)), "weight|exp_avg": torch.randn(2, generator=own)},
        },
    )


def save(folder: Path, *steps: int, fingerprint: str = "f") -> None:
    for step in steps:
        checkpoints.save(folder, make(step), fingerprint=fingerprint)


def same(one: StudentCheckpoint, other: StudentCheckpoint) -> bool:
    plain = (one.step, one.tokens, one.seconds, one.cursor) == (other.step, other.tokens, other.seconds, other.cursor)
    return plain and all(
        torch.equal(tensor, other.tensors[stem][name])
        for stem, tensors in one.tensors.items()
        for name, tensor in tensors.items()
    )


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 7)
    loaded = checkpoints.load(tmp_path, 7, fingerprint="f")
    assert same(make(7), loaded)
    assert loaded.tensors.keys() == {"model", "optimizer"}
    assert {file.name for file in (tmp_path / "step-00000007").iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a", 7)
    save(tmp_path / "b", 7)
    for file in (tmp_path / "a" / "step-00000007").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "step-00000007" / file.name).read_bytes()


def test_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 10, 9)
    assert checkpoints.steps(tmp_path) == [1, 2, 9, 10]
    checkpoints.prune(tmp_path, keep=2)
    assert checkpoints.steps(tmp_path) == [9, 10]
    checkpoints.prune(tmp_path, keep=5)
    assert checkpoints.steps(tmp_path) == [9, 10]
    assert checkpoints.steps(tmp_path / "nowhere") == []


def test_the_last_step_that_all_students_have_is_taken(tmp_path: Path) -> None:
    folders = {"ann": tmp_path / "ann", "bob": tmp_path / "bob"}
    assert checkpoints.load_latest(folders, fingerprint="f") is None
    save(folders["ann"], 1, 2, 3)
    assert checkpoints.load_latest(folders, fingerprint="f") is None
    save(folders["bob"], 1, 2)
    found = checkpoints.load_latest(folders, fingerprint="f")
    assert found is not None
    assert {name: saved.step for name, saved in found.items()} == {"ann": 2, "bob": 2}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "flipped": flip,
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damage_is_named_and_passed_over(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folders = {"ann": tmp_path / "ann", "bob": tmp_path / "bob"}
    for folder in folders.values():
        save(folder, 1, 2)
    path = folders["bob"] / "step-00000002" / file
    DAMAGES[damage](path)
    if (file, damage) != ("state.json", "missing"):
        with pytest.raises((StoreError, StorageError), match=str(path)) as caught:
            checkpoints.check(folders["bob"], 2)
        assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        found = checkpoints.load_latest(folders, fingerprint="f")
    assert found is not None
    assert same(found["bob"], make(1))
    assert same(found["ann"], make(1))
    if (file, damage) != ("state.json", "missing"):
        assert str(path) in caplog.text


def test_no_flipped_bit_of_the_state_is_believed(tmp_path: Path) -> None:
    save(tmp_path, 12)
    path = tmp_path / "step-00000012" / "state.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"state\.json is damaged"):
            checkpoints.load(tmp_path, 12, fingerprint="f")
    path.write_bytes(whole)
    (tmp_path / "step-00000012").rename(tmp_path / "step-00000013")
    with pytest.raises(StoreError, match=r"state\.json is damaged"):
        checkpoints.load(tmp_path, 13, fingerprint="f")


def test_what_a_kill_left_behind_is_cleared_away(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.json").unlink()
    (tmp_path / "step-00000001" / "model.safetensors.tmp-12-0123abcd").write_bytes(b"x")
    (tmp_path / "notes").mkdir()
    assert checkpoints.load_latest({"ann": tmp_path}, fingerprint="f") is not None
    assert not (tmp_path / "step-00000002").exists()
    assert not list(tmp_path.rglob("*.tmp-*"))
    assert (tmp_path / "notes").exists()


def test_a_checkpoint_of_other_inputs_is_refused_and_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, fingerprint="other")
    with pytest.raises(OtherInputsError, match=r"step-00000002 belongs to a run with other inputs.*run\.root"):
        checkpoints.load_latest({"ann": tmp_path}, fingerprint="f")
    assert checkpoints.steps(tmp_path) == [1, 2]


def test_a_checkpoint_whose_state_went_away_while_it_was_removed_is_none(tmp_path: Path) -> None:
    save(tmp_path, 1)
    checkpoints.remove(tmp_path, 1)
    checkpoints.remove(tmp_path, 1)
    assert not (tmp_path / "step-00000001").exists()


def test_the_optimisers_state_goes_there_and_back() -> None:
    def stepped(*, steps: int) -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
        own = torch.Generator().manual_seed(0)
        parameters = {
            name: torch.nn.Parameter(torch.ones(3, dtype=torch.float32)) for name in ("used", "never", "later")
        }
        optimiser = torch.optim.AdamW(parameters.values(), lr=0.1, fused=True)
        for _ in range(steps):
            parameters["used"].grad = torch.randn(3, generator=own)
            optimiser.step()
        return parameters, optimiser

    parameters, optimiser = stepped(steps=3)
    kept = checkpoints.optimiser_tensors(optimiser, parameters)
    assert kept.keys() == {"used|step", "used|exp_avg", "used|exp_avg_sq"}
    fresh_parameters, fresh = stepped(steps=0)
    with torch.no_grad():
        fresh_parameters["used"].copy_(parameters["used"])
    checkpoints.restore_optimiser(fresh, fresh_parameters, kept)
    for mine, theirs in ((parameters, optimiser), (fresh_parameters, fresh)):
        for name in ("used", "later"):
            mine[name].grad = torch.arange(3.0)
        theirs.step()
    for name in parameters:
        assert torch.equal(parameters[name], fresh_parameters[name])
    assert (
        float(kept["used|step"]) == 4.0 != float(checkpoints.optimiser_tensors(fresh, fresh_parameters)["later|step"])
    )
