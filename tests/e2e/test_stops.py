"""Ctrl-C, SIGTERM and kill -9 at bad moments: nothing finished is lost, nothing keeps running, the end is the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from orchestrator.storage import hash_file
from tests.e2e.command import orch, start
from tests.e2e.conftest import copy_of
from tests.e2e.project import CONFIG, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # seconds when nobody else computes

#: Slow enough to be caught in the middle.
CHANGES: dict[str, object] = {
    "corpus": {**CONFIG["corpus"], "masking": {"copies": 4}},  # type: ignore[dict-item]
    "training": {"steps": 60, "tokens_per_batch": 256, "log_every": 2, "checkpoint_seconds": 0.1},
}
EXIT_SECONDS = 10.0


@pytest.fixture(scope="module")
def slower(made_project: Path, shelf: Path) -> Path:
    """A project that takes a while; nobody may change it."""
    folder = copy_of(made_project, shelf)
    write_config(folder, CHANGES)
    return folder


@pytest.fixture(scope="module")
def undisturbed(slower: Path, shelf: Path) -> Path:
    """The same project, run without a stop and without Ray."""
    folder = copy_of(slower, shelf)
    assert orch("run", folder=folder).status == 0
    return folder


def shards_are_under_way(project: Path) -> bool:
    return any((project / "run").glob("signals/*/shards/*.json"))


def students_are_under_way(project: Path) -> bool:
    """Past a checkpoint, so that what comes after it is lost and done again."""
    return len(list((project / "run").glob("students/*/student/checkpoints/step-*/state.json"))) > 1


def is_exported(project: Path) -> bool:
    return any((project / "run").glob("students/*/*/final/training.json"))


@contextmanager
def under_way(project: Path, begun: Callable[[Path], bool], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`orch run` once it is where `begun` says; whatever happens, nothing of it is left afterwards."""
    process = start("run", *arguments, folder=project)
    everyone: list[psutil.Process] = []
    sessions: set[str] = set()
    try:
        while not begun(project):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        everyone = psutil.Process(process.pid).children(recursive=True)
        lines = {one: " ".join(one.cmdline()) for one in everyone}
        sessions = set(re.findall(r"/tmp/orch-\w+", " ".join(lines.values())))
        yield process
        killed = process.returncode == -signal.SIGKILL  # then Ray's agents notice after a minute that they are alone
        family = [one for one in everyone if not (killed and re.search("agent", lines[one], re.IGNORECASE))]
        _, alive = psutil.wait_procs(family, timeout=EXIT_SECONDS)
        assert not alive, [lines[one] for one in alive]
    finally:
        for one in [process, *everyone]:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        process.communicate()
        for session in sessions:
            shutil.rmtree(session, ignore_errors=True)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Stop it as a terminal (the whole group) or a batch system (the driver) does; it says so, soon."""
    began = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < EXIT_SECONDS
    assert process.returncode == 130
    assert (
        err.strip().splitlines()[-1] == "orch: Stopped. What was finished is kept: the same command goes on from here."
    )
    assert "Traceback" not in err


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def same_end(project: Path, other: Path) -> None:
    """Byte for byte: signals, vocabularies, weights; and every step is logged once."""
    patterns = (
        "signals/*/shards/*/*.arrow",
        "vocab/*/vocab.json",
        "vocab/*/maps/*",
        "students/*/*/final/*.safetensors",
    )
    files = [path for pattern in patterns for path in sorted((other / "run").glob(pattern)) if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert hash_file(project / path.relative_to(other)) == hash_file(path), path
    for path in (other / "run").glob("students/*/*/metrics.jsonl"):
        own = project / path.relative_to(other)
        assert logged(own) == logged(path)


def logged(path: Path) -> list[tuple[int, int]]:
    """(step, tokens so far) of every row."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["tokens"]) for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stop_is_quick_and_the_next_start_goes_on(
    slower: Path, shelf: Path, undisturbed: Path, number: signal.Signals
) -> None:
    project = copy_of(slower, shelf)
    with under_way(project, shards_are_under_way, "--address", "in-process") as process:
        stop(process, number)
    assert not is_exported(project)
    with under_way(project, students_are_under_way, "--address", "in-process") as process:
        stop(process, number)
    assert not is_exported(project)
    assert orch("run", folder=project).status == 0
    same_end(project, undisturbed)
    log = (project / "run" / "logs" / "orch.log").read_text()
    assert log.count("WARNING stopped by") == 2
