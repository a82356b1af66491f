"""A group that several processes train together on Ray, one of which is killed: the students of a single process."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import orch, start
from tests.e2e.conftest import copy_of
from tests.e2e.project import assert_same_students, write_config

pytestmark = pytest.mark.timeout(900)

SETUP = ("--setup", "one-to-many")
CHANGES: dict[str, object] = {
    "training": {
        "steps": 60,
        "tokens_per_batch": 1024,
        "log_every": 5,
        "checkpoint_seconds": 0.1,
        "precision": "fp32",
        "baseline": False,
        "threads": 1,
    },
    "evaluation": {"max_texts": 4},
}


def training_processes(driver: int) -> list[psutil.Process]:
    """Actors of the gang that are in the middle of their unit."""
    found = []
    for one in psutil.Process(driver).children(recursive=True):
        try:
            title = " ".join(one.cmdline())
        except psutil.NoSuchProcess:
            continue
        if re.search(r"ray::GangHost\.run_seated", title):
            found.append(one)
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_one_of_them_killed_make_the_students_of_one(made_project: Path, shelf: Path) -> None:
    alone, together = copy_of(made_project, shelf), copy_of(made_project, shelf)
    for project in (alone, together):
        write_config(project, CHANGES)
    result = orch("run", *SETUP, folder=alone)
    assert (result.status, result.err) == (0, "")

    process = start("run", *SETUP, "--set", "cluster.student_workers=2", folder=together)
    try:
        while not list((together / "run").glob("students/*/*/checkpoints/step-*/state.json")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        victims = training_processes(process.pid)
        assert len(victims) == 2
        victims[1].send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    log = (together / "run" / "logs" / "orch.log").read_text(encoding="utf-8")
    assert re.search(r"lost its worker \(attempt 1 of 3\): its process or machine died", log)
    assert not list((together / "run").glob("students/*/*/checkpoints"))
    assert_same_students(alone, together, count=3)


def test_several_workers_do_not_ask_live_teachers(project: Path) -> None:
    several = ("--set", "signals.mode=live", "--set", "cluster.student_workers=2")
    result = orch("run", *SETUP, *several, folder=project)
    assert result.status == 1
    assert "take signals.mode cache, or one worker" in result.err
