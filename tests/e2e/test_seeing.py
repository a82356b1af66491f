"""A run as others see it while it works: `orch status`, the logs of its actors, its figures as Prometheus has them."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from tests.e2e.command import orch, start
from tests.e2e.project import write_config

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
LONG = {
    "training": {
        "steps": 20_000,
        "tokens_per_batch": 256,
        "log_every": 5,
        "threads": 1,
        "baseline": False,
        "checkpoint_seconds": 1.0,
    }
}
REPORTS = {"RAY_metrics_report_interval_ms": "1000"}  # so that a test need not wait for Ray's ten seconds
FIELDS = ["time", "level", "worker", "node", "pid", "unit", "logger", "message"]
T = TypeVar("T")


def lines_of(folder: Path, pattern: str) -> list[dict[str, object]]:
    paths = sorted((folder / "run" / "logs").glob(pattern))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def status_of(folder: Path) -> dict[str, dict[str, object]]:
    """Step and name -> its line of `orch status --json`; and under "run" the rest."""
    result = orch("status", "--json", folder=folder)
    assert (result.status, result.err) == (0, "")
    found = json.loads(result.out)
    work = {f"{line['step']} {line['name']}": line for line in found.pop("work")}
    return work | {"run": found}


def awaited(process: subprocess.Popen[str], find: Callable[[], T | None]) -> T:
    """What `find` finds in the end, while the process is alive."""
    while (found := find()) is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return found


def is_actor(process: psutil.Process) -> bool:
    """Whether it is in the middle of a unit."""
    try:
        return "ray::Host.run" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def scraped(url: str) -> dict[str, float]:
    """Prometheus' name and orch's own labels -> value, of everything that orch counts."""
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^(ray_orch_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        own = re.findall(r'\b((?:teacher|student|language|outcome)="[^"]*")', labels)
        key = ",".join([name, *sorted(own)])
        found[key] = found.get(key, 0.0) + float(value)
    return found


def test_in_process_the_driver_says_which_unit_it_is_about(project: Path) -> None:
    assert orch("precompute-teacher", folder=project).status == 0
    lines = lines_of(project, "actors/*.jsonl")
    assert all(list(line)[:8] == FIELDS and line["worker"] == "driver" for line in lines)
    units = {line["unit"] for line in lines if line["message"] == "begins"}
    assert {re.sub(r"texts.*", "", str(unit)) for unit in units} >= {"shard 0 of teacher 'multilingual' (en, "}
    assert "begins" not in (project / "run" / "logs" / "orch.log").read_text(encoding="utf-8")

    found = status_of(project)
    teacher = found["precompute multilingual"]
    assert teacher["rows"] == teacher["rows_total"] > 0
    assert teacher["tokens"] == sum(int(str(line["tokens"])) for line in lines_of(project, "costs.jsonl"))
    assert (teacher["retries"], teacher["error"], found["run"]["error"]) == (0, "", "")


def test_status_shows_what_ended_the_last_driver(project: Path) -> None:
    failed = orch("build-vocab", folder=project)  # of signals that are not there yet
    assert failed.status == 1
    shown = orch("status", folder=project)
    assert "The last one ended" in shown.out
    assert str(status_of(project)["run"]["error"])[:40] in failed.err


def test_status_needs_no_torch_and_no_ray(project: Path) -> None:
    assert orch("precompute-teacher", folder=project).status == 0
    code = (
        "import sys\nfrom pathlib import Path\nfrom orchestrator.progress import StatusPoll\n"
        "from orchestrator.run import open_run\nfrom orchestrator.status import status_line\n"
        "status_line(StatusPoll(open_run(Path('orch.yaml')))())\n"
        "print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    before = {path: path.stat().st_mtime_ns for path in (project / "run").rglob("*")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")
    assert {path: path.stat().st_mtime_ns for path in (project / "run").rglob("*")} == before


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_ray_is_seen_from_outside(project: Path) -> None:
    write_config(project, LONG)
    process = start("run", "--setup", "one-to-one", folder=project, **REPORTS)
    try:
        awaited(process, lambda: next((project / "run").glob("students/*/*/checkpoints/step-*/state.json"), None))
        joined = next(line for line in lines_of(project, "events.jsonl") if line["kind"] == "joined")
        (url,) = joined["links"]["metrics"]
        steps = 'ray_orch_student_steps_total,student="student"'
        read = awaited(process, lambda: found if steps in (found := scraped(url)) else None)
        assert read['ray_orch_student_tokens_total,student="student"'] > 0
        assert read['ray_orch_student_loss,student="student"'] > 0

        victim = next(one for one in psutil.Process(process.pid).children(recursive=True) if is_actor(one))
        victim.send_signal(signal.SIGKILL)
        student = awaited(process, lambda: one if (one := status_of(project)["train student"])["retries"] else None)
        assert (student["retries"], student["error"]) == (1, "it lost its worker: its process or machine died")
        assert student["tokens"] > 0
        begun = [line for line in lines_of(project, "actors/*.jsonl") if line["pid"] == victim.pid]
        assert [line["message"] for line in begun][:1] == ["begins"]
        assert begun[0]["unit"] == "group student"
        assert len(str(begun[0]["worker"])) == 32
        assert awaited(process, lambda: scraped(url).get("ray_orch_retries_total")) == 1
        driver = status_of(project)["run"]["driver"]
        assert driver is not None
        assert driver["pid"] == process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
    assert status_of(project)["run"]["error"] == "it was stopped by Ctrl-C or SIGTERM"


@pytest.mark.ray
@pytest.mark.slow
def test_the_dashboard_of_a_joined_cluster_is_linked(project: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="orch-head-"))  # the paths of Ray's sockets have to be short
    token = place / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    gcs, dashboard = free_port(), free_port()
    head = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2", f"--temp-dir={place / 'ray'}"),
            *("--include-dashboard=true", "--object-store-memory=100000000"),
        ],
        cwd=project,  # where its workers resolve relative paths
        env={key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        awaited(head, lambda: answers(f"http://127.0.0.1:{dashboard}") or None)
        process = start("precompute-teacher", "--address", f"127.0.0.1:{gcs}", folder=project, **REPORTS, **variables)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert f"Ray's dashboard: http://127.0.0.1:{dashboard}" in out
        assert "Ray's metrics: http://" in out
        joined = next(line for line in lines_of(project, "events.jsonl") if line["kind"] == "joined")
        assert joined["links"]["dashboard"] == [f"http://127.0.0.1:{dashboard}"]
        units = {line["unit"] for line in lines_of(project, "actors/*.jsonl") if line["worker"] != "driver"}
        assert any("shard 0 of teacher 'multilingual'" in str(unit) for unit in units)
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
