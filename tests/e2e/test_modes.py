"""Signals that are stored, live or both: the same students, byte for byte, whatever is killed on the way."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster import Machine
from orchestrator.errors import ClusterError
from orchestrator.run import open_run
from orchestrator.steps.asking import answering
from orchestrator.steps.signals import open_stores
from orchestrator.steps.training import missing_groups
from orchestrator.storage import hash_file
from tests.e2e.command import orch, start
from tests.e2e.conftest import copy_of
from tests.e2e.project import CONFIG, write_config
from tests.e2e.test_stops import kill, under_way
from tests.test_needs import Pretended

pytestmark = pytest.mark.timeout(900)  # seconds when nobody else computes

#: Several epochs of a group of three students of shared parts.
CHANGES: dict[str, object] = {
    "corpus": {**CONFIG["corpus"], "masking": {"copies": 6}},  # type: ignore[dict-item]
    "training": {"steps": 60, "tokens_per_batch": 2048, "log_every": 5, "checkpoint_seconds": 0.1},
    "evaluation": {"max_texts": 4},
}
TEXT = {"texts", "tokens", "masked"}
SETUP = ("--setup", "one-to-many")


def mode(name: str) -> tuple[str, str]:
    return "--set", f"signals.mode={name}"


def tables(project: Path) -> set[str]:
    """Of all shards."""
    return {path.stem for path in (project / "run").glob("signals/*/shards/*/*.arrow")}


def weights(project: Path) -> dict[str, str]:
    """Student -> hash of what was exported."""
    paths = (project / "run").glob("students/*/*/final/model.safetensors")
    return {path.parents[1].name: hash_file(path) for path in paths}


@pytest.fixture(scope="module")
def larger(made_project: Path, shelf: Path) -> Path:
    """A project that nobody may change."""
    folder = copy_of(made_project, shelf)
    write_config(folder, CHANGES)
    return folder


@pytest.fixture(scope="module")
def cached(larger: Path, shelf: Path) -> Path:
    """The same, run with stored signals."""
    folder = copy_of(larger, shelf)
    result = orch("run", *SETUP, folder=folder)
    assert (result.status, result.err) == (0, "")
    return folder


@pytest.mark.parametrize("name", ["live", "hybrid"])
def test_the_same_seed_gives_the_same_students(larger: Path, shelf: Path, cached: Path, name: str) -> None:
    project = copy_of(larger, shelf)
    result = orch("run", *SETUP, *mode(name), folder=project)
    assert (result.status, result.err) == (0, "")
    assert weights(project) == weights(cached)
    assert len(weights(project)) == 6
    if name == "live":
        assert tables(project) == TEXT
    else:
        assert tables(project) == tables(cached) > TEXT
        said = {path.relative_to(cached) for path in (cached / "run").glob("signals/*/shards/*/*.arrow")}
        assert all(hash_file(project / path) == hash_file(cached / path) for path in said)
    again = orch("run", *SETUP, *mode("cache" if name == "hybrid" else name), folder=project)
    assert (again.status, again.err) == (0, "")
    assert weights(project) == weights(cached)
    assert orch("verify", *SETUP, *mode(name), folder=project).status == 0


def test_what_is_under_way_may_go_on_in_another_mode(made_project: Path, shelf: Path) -> None:
    project = copy_of(made_project, shelf)
    assert orch("precompute-teacher", *mode("live"), folder=project).status == 0
    assert tables(project) == TEXT
    refused = orch("build-vocab", folder=project)
    assert refused.status == 1
    assert "has not said all yet" in refused.err
    assert "run `orch precompute-teacher`" in refused.err
    assert orch("run", folder=project).status == 0
    assert tables(project) > TEXT


def test_the_commands_say_what_the_mode_does(made_project: Path, shelf: Path) -> None:
    project = copy_of(made_project, shelf)
    plan = orch("plan", *mode("live"), folder=project)
    assert "signals live" in plan.out
    assert "only masked text is on disk" in " ".join(plan.out.split())
    live = orch("precompute-teacher", *mode("live"), folder=project)
    assert (live.status, live.err) == (0, "")
    assert "nothing of the teachers is to be stored" in live.out
    assert not (project / "run" / "logs" / "costs.jsonl").exists()
    hybrid = orch("train-students", *mode("hybrid"), folder=project)
    assert hybrid.status == 1
    assert "run `orch precompute-teacher`" in hybrid.err
    hybrid = orch("precompute-teacher", *mode("hybrid"), folder=project)
    assert "what they say is stored then" in hybrid.out
    status = " ".join(orch("status", *mode("hybrid"), folder=project).out.split())
    assert "mask multilingual 9/9 shards done" in status
    assert "store multilingual 0/9 shards" in status


@pytest.mark.slow
@pytest.mark.parametrize("name", ["live", "hybrid"])
def test_a_killed_run_goes_on_to_the_same_end(larger: Path, shelf: Path, cached: Path, name: str) -> None:
    project = copy_of(larger, shelf)
    with under_way(project, some_student_is_under_way, *SETUP, *mode(name), "--address", "in-process") as process:
        kill(process)
    assert len(weights(project)) < 6
    result = orch("run", *SETUP, *mode(name), folder=project)
    assert (result.status, result.err) == (0, "")
    assert weights(project) == weights(cached)


def some_student_is_under_way(project: Path) -> bool:
    return len(list((project / "run").glob("students/*/*/checkpoints/step-*/state.json"))) > 1


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["live", "hybrid"])
def test_a_teacher_that_is_killed_while_it_answers_changes_nothing(
    larger: Path, shelf: Path, cached: Path, name: str
) -> None:
    project = copy_of(larger, shelf)
    process = start("run", *SETUP, *mode(name), folder=project)
    try:
        victim = answering_teacher(process.pid)
        victim.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert weights(project) == weights(cached)
    assert tables(project) == (TEXT if name == "live" else tables(cached))


def answering_teacher(driver: int) -> psutil.Process:
    """The process of an actor of the pool in the middle of a unit, or between two when none is soon seen there."""
    idle: float | None = None
    while psutil.Process(driver).status() != psutil.STATUS_ZOMBIE:
        for one in psutil.Process(driver).children(recursive=True):
            try:
                title = " ".join(one.cmdline())
            except psutil.NoSuchProcess:
                continue
            if "_PoolHost" in title:
                idle = idle or time.monotonic()
                if "_PoolHost.run" in title or time.monotonic() > idle + 5.0:
                    return one
        time.sleep(0.01)
    raise AssertionError("no teacher answered")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("cluster.cpus_per_teacher=64", r"1 teachers with 64 CPUs .* leave 0 CPUs"),
        ("cluster.teacher_actors=64", r"64 teachers with .* leave 0 CPUs"),
        ("cluster.cpus_per_student=64", r"lower what the section 'cluster' gives"),
        ("cluster.object_store_megabytes=1", r"more than cluster\.object_store_megabytes \(1\)"),
    ],
)
def test_what_cannot_go_on_side_by_side_is_refused(
    made_project: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch, change: str, sentence: str
) -> None:
    project = copy_of(made_project, shelf)
    for command in ("precompute-teacher", "build-vocab"):
        assert orch(command, *mode("live"), folder=project).status == 0
    monkeypatch.chdir(project)
    monkeypatch.setattr("orchestrator.steps.asking.WINDOWS_HELD", 20)
    run = open_run(project / "orch.yaml", overrides=["signals.mode=live", change])
    stores = open_stores(run)
    jobs = missing_groups(run, stores)
    here = Pretended(Machine(2.0, object_store_bytes=run.config.cluster.object_store_megabytes << 20))
    with pytest.raises(ClusterError, match=sentence), answering(run, stores, jobs, here):
        pytest.fail("they went on")
