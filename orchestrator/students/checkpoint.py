"""Checkpoints of a group: one folder per student and step, tensors as safetensors, `state.json` written last.

A group resumes from the last step whose checkpoint is whole in every student's folder. Tensors that students share lie
with the first student; the state names each file with its hash, so that a torn or altered one is never resumed from.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from orchestrator.errors import StorageError, StoreError
from orchestrator.storage import hash_bytes, hash_file, open_write, read_bytes, remove_temporaries, write_bytes
from orchestrator.students.stream import Cursor

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"^step-(\d{8})$")
_MAX_STATE_BYTES = 1 << 20
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


#: A name that never leads out of the checkpoint's folder.
_FileName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]*\.safetensors$", max_length=80)]


class OtherInputsError(StoreError):
    """A whole checkpoint, but of a student that was made from something else."""


class _State(BaseModel):
    """`state.json` of one student's checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    format: int = 1
    fingerprint: str
    step: int
    tokens: int
    seconds: float
    cursor: dict[str, tuple[int, int, int]]
    files: dict[_FileName, str]  # file name -> xxh3-128
    checksum: str = ""  # of all the above

    def sealed(self) -> _State:
        """The same state with its checksum."""
        plain = self.model_copy(update={"checksum": ""})
        return plain.model_copy(update={"checksum": hash_bytes(plain.model_dump_json().encode())})


@dataclass(frozen=True)
class StudentCheckpoint:
    """What one student needs to go on: its tensors and where it stood."""

    step: int
    tokens: int
    seconds: float
    cursor: Cursor
    tensors: dict[str, dict[str, Tensor]]  # file stem -> name -> tensor


def save(folder: Path, checkpoint: StudentCheckpoint, *, fingerprint: str) -> None:
    """Write one student's checkpoint below `folder`; it is there once its `state.json` is."""
    target = _folder(folder, checkpoint.step)
    files = {}
    for stem, tensors in checkpoint.tensors.items():
        with open_write(target / f"{stem}.safetensors") as file:
            file.write(save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
        files[file.path.name] = file.hash
    state = _State(
        fingerprint=fingerprint,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        seconds=checkpoint.seconds,
        cursor=checkpoint.cursor,
        files=files,
    )
    write_bytes(target / "state.json", state.sealed().model_dump_json(indent=1).encode())


def prune(folder: Path, *, keep: int) -> None:
    """Remove all but the last `keep` checkpoints; only once every student of the group has the newest."""
    for step in steps(folder)[:-keep]:
        remove(folder, step)


def steps(folder: Path) -> list[int]:
    """Steps that have a `state.json`, ascending; a folder without one was never completed."""
    if not folder.is_dir():
        return []
    found = [
        match for path in folder.iterdir() if (match := _FOLDER.match(path.name)) and (path / "state.json").exists()
    ]
    return sorted(int(match.group(1)) for match in found)


def remove(folder: Path, step: int) -> None:
    """Remove a checkpoint: its state first, so that what is half removed is no checkpoint."""
    target = _folder(folder, step)
    (target / "state.json").unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)


def remove_all(folder: Path) -> None:
    """Remove every checkpoint below `folder`, and the folder: for students that are exported."""
    for step in steps(folder):
        remove(folder, step)
    shutil.rmtree(folder, ignore_errors=True)


def remove_incomplete(folder: Path) -> None:
    """Remove what a kill inside a checkpoint left behind."""
    if not folder.is_dir():
        return
    complete = set(steps(folder))
    for path in folder.iterdir():
        match = _FOLDER.match(path.name)
        if match and int(match.group(1)) not in complete:
            shutil.rmtree(path, ignore_errors=True)
        elif match:
            remove_temporaries(path)


def load(folder: Path, step: int, *, fingerprint: str) -> StudentCheckpoint:
    """Read and check one student's checkpoint.

    Raises:
        OtherInputsError: the checkpoint belongs to other inputs.
        StoreError: it is damaged.
        StorageError: a file of it is missing or cannot be read.
    """
    state = _read_state(folder, step)
    if state.fingerprint != fingerprint:
        raise OtherInputsError(
            f"{_folder(folder, step)} belongs to a run with other inputs; remove {folder} or choose another run.root."
        )
    tensors = {
        name.removesuffix(".safetensors"): _tensors(_checked(folder, step, name, expected))
        for name, expected in state.files.items()
    }
    return StudentCheckpoint(state.step, state.tokens, state.seconds, dict(state.cursor), tensors)


def check(folder: Path, step: int) -> None:
    """Check every file of a checkpoint; StoreError or StorageError names the first that is not right."""
    for name, expected in _read_state(folder, step).files.items():
        _checked(folder, step, name, expected)


def _read_state(folder: Path, step: int) -> _State:
    path = _folder(folder, step) / "state.json"
    try:
        state = _State.model_validate_json(read_bytes(path, max_bytes=_MAX_STATE_BYTES))
    except ValidationError:
        state = None
    if state is None or state != state.sealed() or state.step != step:
        raise StoreError(f"{path} is damaged; remove {path.parent} and run the same command again.")
    return state


def _checked(folder: Path, step: int, name: str, expected: str) -> Path:
    path = _folder(folder, step) / name
    if hash_file(path) != expected:
        raise StoreError(f"{path} is damaged (its hash differs); remove {path.parent} and run the command again.")
    return path


def load_latest(folders: Mapping[str, Path], *, fingerprint: str) -> dict[str, StudentCheckpoint] | None:
    """The last step that every student of a group has whole; damaged ones are passed over with a warning."""
    for folder in folders.values():
        remove_incomplete(folder)
    common = set.intersection(*(set(steps(folder)) for folder in folders.values()))
    for step in sorted(common, reverse=True):
        try:
            return {name: load(folder, step, fingerprint=fingerprint) for name, folder in folders.items()}
        except OtherInputsError:
            raise
        except (StoreError, StorageError) as error:
            log.warning("%s", error)
    return None


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, Tensor]:
    """AdamW's state of these parameters as flat named tensors, without pickle: `<parameter>|<key>`."""
    return {
        f"{name}|{key}": optimiser.state[parameter][key]
        for name, parameter in parameters.items()
        if parameter in optimiser.state
        for key in _MOMENTS
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` took; a parameter that was never stepped has nothing to put back."""
    for name, parameter in parameters.items():
        if f"{name}|step" in tensors:
            # Fused AdamW wants its step counter on the parameter's device, too.
            moments = {key: tensors[f"{name}|{key}"].to(parameter.device, copy=True) for key in _MOMENTS}
            optimiser.state[parameter].update(moments)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}); remove {path.parent} and run the command again.") from error


def _folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"
