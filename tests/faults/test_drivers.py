"""Drivers that are killed, stopped, started twice, out of disk or wrong: the same data, a clean end, one sentence."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster import homes
from orchestrator.storage import hash_file
from orchestrator.teachers import worker as teacher_worker
from tests.e2e.command import orch, start
from tests.e2e.conftest import copy_of
from tests.faults.conftest import Note
from tests.faults.figures import IS_LONG, SEED, size

pytestmark = pytest.mark.timeout(7200)  # seconds when nobody else computes

#: The short form does without Ray, whose start takes longer than all that is tested.
ADDRESS = () if IS_LONG else ("--address", "in-process")
#: Who is killed, and how many seconds later at most: after the run has its lock, or after there is a teacher.
LATEST = {"driver": 8.0, "teacher": 4.0} if IS_LONG else {"driver": 3.0}


@pytest.fixture(scope="module")
def undisturbed(made_project: Path, shelf: Path) -> Path:
    """A project whose teachers have said all; nobody may change it."""
    folder = copy_of(made_project, shelf)
    assert orch("precompute-teacher", folder=folder).status == 0
    return folder


def data_set(project: Path) -> dict[str, str]:
    """Every file of text and signals: its name and hash. The folder of the text is named by where its files lie."""
    run = project / "run"
    texts = {f"corpus/{path.relative_to(path.parents[2])}": hash_file(path) for path in run.glob("corpus/*/*/*/*")}
    signals = (path for path in run.glob("signals/**/*") if path.is_file())
    return texts | {str(path.relative_to(project)): hash_file(path) for path in signals}


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def end(process: subprocess.Popen[str], others: list[psutil.Process]) -> None:
    """Whatever happened: nothing of it is left."""
    for one in [process, *others]:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            one.kill()
    process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists() or not path.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_re_run_gives_the_same_data_set(undisturbed: Path, made_project: Path, shelf: Path, note: Note) -> None:
    """Killed at random times, the driver or one of its teachers, and started again, to the end."""
    own, expected = random.Random(SEED), data_set(undisturbed)
    wanted, killed, num_ends = size(2, 50), Counter[str](), 0
    project = copy_of(made_project, shelf)
    while killed.total() < wanted or not num_ends:
        process = start("precompute-teacher", *ADDRESS, folder=project)
        try:
            wait_for(project / "run" / ".lock", process)
            while killed.total() < wanted:
                kind = own.choice(list(LATEST))
                while kind == "teacher" and not teachers(process) and process.poll() is None:
                    time.sleep(0.05)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(own.uniform(0.0, LATEST[kind]))
                    break
                if victims := [process] if kind == "driver" else teachers(process):
                    own.choice(victims).kill()
                    killed[kind] += 1
            process.wait(600)
        finally:
            end(process, [])
        status = process.returncode
        assert status in (0, 1, -signal.SIGKILL)  # 1: one unit lost its worker three times, and the others are done
        if status == 0:
            assert data_set(project) == expected
            num_ends += 1
            shutil.rmtree(project.parent)
            project = copy_of(made_project, shelf)
    assert all(killed[kind] >= wanted // 4 for kind in LATEST), killed
    note(
        "a re-run gives the same data set",
        f"{killed['driver']} drivers and {killed['teacher']} teachers killed, {num_ends} data sets, 0 differences",
    )


def teachers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of Ray's actors that hold a teacher, or are about to."""
    return [one for one in family(driver) if any(word.startswith("ray::Host") for word in _words(one))]


@pytest.mark.parametrize("trial", range(size(1, 20)))
def test_a_clean_end(made_project: Path, shelf: Path, note: Note, trial: int) -> None:
    """Ctrl-C and SIGTERM by turns, at a random time."""
    own = random.Random(f"{SEED} {trial}")
    project = copy_of(made_project, shelf)
    process = start("run", *ADDRESS, folder=project)
    children: list[psutil.Process] = []
    try:
        wait_for(project / "run" / ".lock", process)
        with suppress(subprocess.TimeoutExpired):
            process.wait(own.uniform(0.0, 30.0 if IS_LONG else 3.0))
        children = family(process)
        sessions = {word for one in children for word in re.findall(r"/tmp/orch-\w+", " ".join(_words(one)))}
        began = time.monotonic()
        if process.poll() is None and trial % 2:
            os.killpg(process.pid, signal.SIGINT)
        elif process.poll() is None:
            process.terminate()
        _, err = process.communicate(timeout=120)
        seconds = time.monotonic() - began
        assert process.returncode in (0, 130), f"exit status {process.returncode}: {err}"
        assert seconds <= (10.0 if IS_LONG else 60.0)
        _, alive = psutil.wait_procs(children, timeout=10 if IS_LONG else 60)
        assert alive == []
        assert not any(Path(session).exists() for session in sessions)
    finally:
        end(process, children)
    assert orch("precompute-teacher", folder=project).status == 0  # the next start
    assert not [path for path in (project / "run").rglob("*") if re.search(r"\.tmp-\d+-", path.name)]
    note("a clean end", f"exit after {seconds:.1f} s with {process.returncode}, no orphan of {len(children)}")


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def test_two_drivers_on_one_run(made_project: Path, shelf: Path, note: Note) -> None:
    project = copy_of(made_project, shelf)
    first = start("precompute-teacher", "--address", "in-process", folder=project)
    try:
        wait_for(project / "run" / ".lock", first)
        first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second begins
        refused = orch("run", folder=project)
        assert refused.status == 1
        assert f"(process {first.pid} on " in refused.err
        assert "'orch precompute-teacher --address in-process'" in refused.err
        first.send_signal(signal.SIGCONT)
        assert first.wait(600) == 0
    finally:
        end(first, [])
    assert orch("precompute-teacher", folder=project).status == 0
    note("two drivers on one run", "the second is refused and names the first by command, process and host")


def test_one_bad_text_is_tried_once_and_stops_no_other(
    made_project: Path, shelf: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    project, tried = copy_of(made_project, shelf), []
    compute = teacher_worker.TeacherWorker.signals

    def poisoned(self: teacher_worker.TeacherWorker, unit: object, tables: object = None) -> object:
        tried.append(unit.index)  # type: ignore[attr-defined]
        if unit.index == 4:  # type: ignore[attr-defined]
            raise IndexError("no such row")
        return compute(self, unit, tables)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(teacher_worker.TeacherWorker, "signals", poisoned)
        result = orch("precompute-teacher", folder=project)
    assert result.status == 1
    assert sorted(tried) == list(range(9))
    assert "1 of 9 shards were given up: shard 4 of teacher 'multilingual' (texts " in result.err
    assert "was not tried again, since it would fail the same way: IndexError: no such row" in result.err
    assert "Traceback" not in result.err
    (given_up,) = json.loads((project / "run" / "logs" / "given-up.json").read_text())
    assert (given_up["shard"], given_up["attempts"]) == (4, 1)
    assert 'raise IndexError("no such row")' in (project / "run" / "logs" / "orch.log").read_text()

    again = orch("precompute-teacher", folder=project)
    assert again.status == 0
    assert "is tried again" in again.err
    assert not (project / "run" / "logs" / "given-up.json").exists()
    assert data_set(project) == data_set(undisturbed)
    note("wrong code or data", "one unit raises: 1 attempt, exit 1, named; 8 of 8 others done")


def test_code_that_is_wrong_ends_the_run_and_what_is_missing_is_listed(
    made_project: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    project, tried = copy_of(made_project, shelf), []

    def wrong(self: object, unit: object, tables: object = None) -> object:
        tried.append(unit)
        raise TypeError("unexpected argument")

    with monkeypatch.context() as patch:
        patch.setattr(teacher_worker.TeacherWorker, "signals", wrong)
        result = orch("precompute-teacher", folder=project)
    assert result.status == 1
    assert len(tried) == 3
    assert "The first 3 units all failed, so the rest was not begun." in result.err
    assert "Shards that are missing: 9 of 'multilingual' (0, 1, 2, 3, 4, 5, 6, 7, 8)" in result.err
    note("wrong code or data", "every unit raises: 3 tried once each, exit 1, 9 missing shards listed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or not _mount(folder, "size=64k"):
        pytest.skip("mounting a small file system needs root; the refusal of every write is tested without")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # maps of its files may still be held


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_a_small_disk_that_is_full(
    made_project: Path, shelf: Path, undisturbed: Path, small_disk: Path, note: Note
) -> None:
    """It stops with the reason, nothing partial is visible, and goes on when there is room."""
    project, root = copy_of(made_project, shelf), ("--set", f"run.root={small_disk / 'run'}")
    kilobytes, num_refused = 64, 0
    while (result := orch("precompute-teacher", *root, folder=project)).status:
        assert "the disk is full" in result.err, result.err
        assert "MB free" in result.err
        assert not list(small_disk.rglob("*.tmp-*"))
        found = orch("verify", *root, folder=project).out.split("✗")[1:]
        assert all("holds no finished corpus" in problem for problem in found), found  # said, and not read
        num_refused += 1
        kilobytes += size(300, 40)
        assert _mount(small_disk, f"remount,size={kilobytes}k")
    assert num_refused > 0
    verified = orch("verify", *root, folder=project)
    assert verified.out == "✓ Every checksum is right.\n"
    found = {str(path.relative_to(small_disk)): hash_file(path) for path in small_disk.glob("run/signals/**/*.arrow")}
    expected = data_set(undisturbed).items()
    assert found == {name: value for name, value in expected if name.startswith("run/") and name.endswith(".arrow")}
    note("disk full", f"tmpfs: {num_refused} stops with the reason, resumed, the same shards")


def test_what_a_killed_driver_leaves_in_tmp_goes_with_the_next_start(tmp_path: Path) -> None:
    kept, gone, strange = (tmp_path / f"{homes.HOME_PREFIX}{name}" for name in ("kept", "gone", "strange"))
    for folder in (kept, gone, strange):
        folder.mkdir()
        (folder / "file").touch()
    owner = homes.own_home(kept)
    os.close(homes.own_home(gone))  # as the system does when a process dies
    (tmp_path / "orch-link").symlink_to(kept)
    homes.clear_abandoned_homes(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["orch-kept", "orch-link", "orch-strange"]
    os.close(owner)
    homes.clear_abandoned_homes(tmp_path)
    assert not kept.exists()
    assert strange.exists()  # whose it is cannot be told
