"""Whatever a stranger does wrong: one clear message, exit status 1, no traceback, nothing lost."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import BertConfig, BertModel

from orchestrator import pipeline
from orchestrator.storage import local as storage
from tests.e2e.command import Result, orch
from tests.e2e.conftest import copy_of
from tests.e2e.project import CONFIG, write_config
from tests.faults.disks import FaultyDisk

pytestmark = pytest.mark.timeout(900)  # seconds when nobody else computes


def refused(result: Result, *parts: str) -> str:
    """The one message of a command that failed as it should."""
    assert result.status == 1
    assert result.err.startswith("orch: ")
    assert "Traceback" not in result.err
    message = result.err.removeprefix("orch: ").strip()
    for part in parts:
        assert part in message, message
    return message


def check(
    project: Path, *parts: str, changes: dict[str, object] | None = None, arguments: tuple[str, ...] = ()
) -> None:
    """`orch run` refuses at its start: before it reads, locks or writes anything."""
    if changes is not None:
        write_config(project, changes)
    refused(orch("run", *arguments, folder=project), *parts)
    assert not (project / "run" / "signals").exists()


def section(name: str, **changes: object) -> dict[str, object]:
    old = CONFIG[name]
    assert isinstance(old, dict)
    return {name: old | changes}


def teachers(**changes: object) -> dict[str, object]:
    old = CONFIG["teachers"]
    assert isinstance(old, dict)
    return {"teachers": old | {"multilingual": old["multilingual"] | changes}}


def test_no_configuration(project: Path) -> None:
    (project / "orch.yaml").unlink()
    check(project, "There is no configuration at orch.yaml: write one with `orch init`")


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"traning": {}}, "unknown key 'traning': did you mean 'training'?"),
        (section("training", step=3), "training: unknown key 'step': did you mean 'steps'?"),
        ({"objectives": [{"type": "soft-target"}]}, "unknown type 'soft-target': did you mean 'soft-targets'?"),
        ({"objectives": [{"type": "masked-lm", "k": 3}]}, "unknown key 'k'"),
    ],
)
def test_a_typing_error_in_a_key(project: Path, changes: dict[str, object], right: str) -> None:
    check(project, "orch.yaml is not a valid configuration", right, changes=changes)


def test_several_errors_are_told_at_once(project: Path) -> None:
    changes = section("training", steps=0) | section("student", heads=3)
    check(project, "training.steps: ", "hidden_size 32 is not a multiple of heads 3", changes=changes)


def test_no_yaml(project: Path) -> None:
    (project / "orch.yaml").write_text("run: [1,\nb: 2")
    check(project, "orch.yaml, line 2 is not YAML")


def test_a_missing_text(project: Path) -> None:
    (project / "text" / "de.txt").unlink()
    check(project, "corpus.languages.de.train", "text/de.txt does not exist")


def test_an_empty_text(project: Path) -> None:
    (project / "text" / "de.txt").write_text("\n  \n")
    check(project, "corpus.languages.de.train: no text is left from text/de.txt")


def test_missing_parallel_text_is_found_before_a_teacher_runs(project: Path) -> None:
    parallel = {"name": "x", "files": "text/none.jsonl", "columns": {"en": "en", "de": "de"}}
    check(
        project,
        "parallel text 'x': there is no file text/none.jsonl",
        changes=section("evaluation", parallel=[parallel]),
    )


def test_an_unknown_language(project: Path) -> None:
    check(
        project,
        "teachers.multilingual.languages: the corpus has no language 'ed'; known here: de, en, fi",
        changes=teachers(languages=["en", "ed"]),
    )


def test_a_map_outside_the_depth_of_the_teacher(project: Path) -> None:
    objectives = [{"type": "hidden-states", "map": {1: 3}}]
    check(
        project,
        "pairs student layer 1 with teacher layer 3, but the teacher's layers are 1 to 2",
        changes={"objectives": objectives},
    )
    start = {"layers": "teacher", "teacher": "multilingual", "map": {1: 5}}
    check(project, "student.initialisation.map", "teacher layer 5", changes=section("student", initialisation=start))


def test_sizes_that_keep_a_student_from_the_layers_of_its_teacher(project: Path) -> None:
    check(project, "its heads must be 2, not 4", changes=section("student", heads=4))
    check(project, "its intermediate_size must be 128, not 64", changes=section("student", intermediate_size=64))


def test_rows_longer_than_the_positions_of_a_student(project: Path) -> None:
    check(project, "max_positions", "48", changes=section("student", max_positions=32))


def test_more_ids_than_the_vocabulary_has(project: Path) -> None:
    objectives = [{"type": "soft-targets", "k": 501}]
    check(project, "k = 501", "multilingual", "only 500", changes={"objectives": objectives})


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 300)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (shutil.rmtree, ("teachers/multilingual",)),
        (without("model.safetensors"), ("teachers/multilingual", "no safetensors weights")),
        (pickled, ("teachers/multilingual", "no safetensors weights")),
        (without("config.json"), ("config.json is missing",)),
        (without("tokenizer.json"), ("teachers/multilingual", "tokenizer")),
        (cut, ("model.safetensors", "safetensors")),
    ],
    ids=["no folder", "no weights", "pickle", "no config", "no tokenizer", "cut short"],
)
def test_a_teacher_that_does_not_load(
    project: Path, damage: Callable[[Path], None], parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(project / "teachers" / "multilingual")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # else it is asked, for half a minute
    check(project, *parts)


def test_soft_targets_of_a_teacher_without_head(project: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    with torch.random.fork_rng():
        BertModel(BertConfig(vocab_size=500, **shape)).save_pretrained(project / "teachers" / "multilingual")
    check(project, "Objective soft-targets needs logits, but teacher 'multilingual' has no masked-language-model head")


def test_a_setup_that_is_none(project: Path) -> None:
    check(project, "--setup one-to-some: no such setup; did you mean 'one-to-", arguments=("--setup", "one-to-some"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps", "--set training.steps: expected KEY=VALUE"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("training.steps=[", "--set training.steps=[: the value is not YAML"),
        ("training.step=3", "unknown key 'step': did you mean 'steps'?"),
        ("training.steps=many", "training.steps: "),
        ("training.steps.x=1", "--set training.steps.x=1"),
    ],
)
def test_overrides_that_cannot_be(project: Path, override: str, message: str) -> None:
    check(project, message, arguments=("--set", override))


def test_a_ray_that_does_not_answer(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "open_cluster", partial(pipeline.open_cluster, join_seconds=4.0))
    result = orch("precompute-teacher", "--address", "127.0.0.1:9", folder=project)
    refused(result, "no Ray cluster answers at '127.0.0.1:9' within 4 seconds")


def test_two_drivers_of_one_run(project: Path) -> None:
    (project / "run").mkdir()
    with (project / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f'{{"pid": {os.getpid()}, "host": "here", "since": "noon", "command": "orch run"}}')
        file.flush()
        check(project, f"run is in use by 'orch run' (process {os.getpid()} on here since noon)", "orch status")
    assert orch("precompute-teacher", folder=project).status == 0


def test_a_folder_that_cannot_be_made(project: Path) -> None:
    check(project, "orch.yaml", "cannot be made", arguments=("--set", "run.root=orch.yaml/run"))


def test_what_a_step_needs_is_named(project: Path) -> None:
    refused(orch("build-vocab", folder=project), "run `orch precompute-teacher`")
    refused(orch("train-students", folder=project), "run `orch precompute-teacher`")
    refused(orch("inspect", folder=project), "run `orch precompute-teacher`")
    assert orch("precompute-teacher", folder=project).status == 0
    refused(orch("train-students", folder=project), "run `orch build-vocab`")
    assert orch("build-vocab", folder=project).status == 0
    refused(orch("evaluate", folder=project), "Student 'student' is not trained yet; run `orch train-students`")
    refused(orch("inspect", "--teacher", "multilingua", folder=project), "did you mean 'multilingual'?")
    refused(orch("inspect", "--language", "ru", folder=project), "--language ru: 'multilingual' does not answer for it")
    refused(orch("inspect", "--row", "9999", folder=project), "--row 9999")


class FullDisk(FaultyDisk):
    """Takes nothing from one call on, as a disk does until someone makes room."""

    def step(self) -> None:
        self.num_calls += 1
        self.failed = self.fail_at is not None and self.num_calls > self.fail_at
        if self.failed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def remove(self, path: Path) -> None:
        path.unlink()


def test_a_full_disk_loses_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start has room for a little more, and none does again what one before it did."""
    num_refused = 0
    while num_refused < 40:
        monkeypatch.setattr(storage, "disk", FullDisk(200))
        result = orch("run", folder=project)
        if result.status == 0:
            break
        refused(result, "the disk is full", "MB free", "run the same command again")
        num_refused += 1
    assert 3 < num_refused < 40
    monkeypatch.setattr(storage, "disk", storage.Disk())
    assert orch("verify", folder=project).status == 0
    costs = (project / "run" / "logs" / "costs.jsonl").read_text().splitlines()
    assert len(costs) <= 9


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def with_vocabulary(made_project: Path, shelf: Path) -> Path:
    """Signals and vocabulary are there, students are not; nobody may change it."""
    folder = copy_of(made_project, shelf)
    for command in ("precompute-teacher", "build-vocab"):
        assert orch(command, folder=folder).status == 0
    return folder


@pytest.fixture
def prepared(with_vocabulary: Path, shelf: Path) -> Path:
    """The same, to be changed: it lies elsewhere, so its text was read again."""
    folder = copy_of(with_vocabulary, shelf)
    assert orch("precompute-teacher", folder=folder).status == 0
    return folder


def test_a_damaged_shard_is_named(prepared: Path) -> None:
    (store,) = (prepared / "run" / "signals").iterdir()
    path = (store / "shards" / "000002" / "masked.arrow").relative_to(prepared)
    flip(prepared / path, -200)
    refused(orch("train-students", folder=prepared), str(path), "orch precompute-teacher")
    found = orch("verify", folder=prepared)
    assert found.status == 1
    assert found.out.startswith(f"✗ {path}")
    assert found.out.endswith("1 problem.\n")
    (prepared / path.parent.with_suffix(".json")).unlink()  # as the message advises
    assert orch("precompute-teacher", folder=prepared).status == 0
    assert orch("verify", folder=prepared).status == 0
    assert orch("run", folder=prepared).status == 0


def test_a_damaged_vocabulary_is_named(prepared: Path) -> None:
    (folder,) = (prepared / "run" / "vocab").iterdir()
    flip(folder / "maps" / "multilingual.npy", -4)
    for command in ("build-vocab", "train-students"):
        refused(orch(command, folder=prepared), "maps/multilingual.npy", f"remove run/vocab/{folder.name}")
    found = orch("verify", folder=prepared)
    assert (found.status, "maps/multilingual.npy" in found.out) == (1, True)
    shutil.rmtree(folder)
    assert orch("build-vocab", folder=prepared).status == 0
    assert orch("verify", folder=prepared).status == 0


def test_a_damaged_corpus_is_named(prepared: Path) -> None:
    path = next((prepared / "run" / "corpus").glob("*/de/train/00000.arrow"))
    flip(path, path.stat().st_size // 2)
    found = orch("verify", folder=prepared)
    assert (found.status, "de/train/00000.arrow" in found.out) == (1, True)


def test_a_defect_keeps_its_traceback_for_those_who_ask(project: Path) -> None:
    (project / "text" / "de.txt").unlink()
    result = orch("precompute-teacher", "--verbose", folder=project)
    assert result.status == 1
    assert "Traceback" in result.err
    assert result.err.rstrip().splitlines()[-1].startswith("orch: corpus.languages.de.train")
