"""A cluster started by `ray start`, with a token: `ray job submit -- orch …`, and drivers that come by ray://."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cluster import check_lasting
from orchestrator.cluster.jobs import given_by_job, submitted_files
from orchestrator.errors import ClusterError
from orchestrator.signals import Store
from tests.e2e.project import make_project
from tests.machines import environment
from tests.test_cluster_nodes import driver, report

RAY = Path(sys.executable).with_name("ray")
#: Else Ray's servers for clients now and then die at birth (docs/cluster.md).
CAN_FORK = {"GRPC_ENABLE_FORK_SUPPORT": "0"}


@dataclass(frozen=True)
class Head:
    """Where the cluster is reached, and the environment of who may."""

    dashboard: str
    client: str
    token: dict[str, str]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="orch-test-", dir="/tmp"))  # paths of sockets are short
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(os.urandom(32).hex())
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    gcs, dashboard, client, agent = free_ports(4)
    command = [
        *(str(RAY), "start", "--head", "--block", "--num-cpus=2", f"--port={gcs}", f"--temp-dir={folder / 'ray'}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--ray-client-server-port={client}", f"--object-store-memory={80 << 20}", "--disable-usage-stats"),
    ]
    process = subprocess.Popen(
        command,
        env=environment(**token, **CAN_FORK),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for port in (dashboard, client):
            wait_for(port, process)
        yield Head(f"http://127.0.0.1:{dashboard}", f"ray://127.0.0.1:{client}", token)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, "ray start ended"
            assert time.monotonic() < deadline, "ray start took too long"
            time.sleep(0.2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitted_job_reads_the_files_that_travel_with_it(head: Head, tmp_path: Path) -> None:
    make_project(tmp_path / "project")
    root = tmp_path / "shared"
    job = subprocess.run(
        [
            *(str(RAY), "job", "submit", "--address", head.dashboard, "--working-dir", str(tmp_path / "project"), "--"),
            *(sys.executable, "-m", "orchestrator.cli", "precompute-teacher", "--set", f"run.root={root}"),
        ],
        env=environment(**head.token),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert job.returncode == 0, job.stdout + job.stderr
    (folder,) = (root / "signals").iterdir()
    store = Store.open(folder)
    assert store.finished
    assert not list((tmp_path / "project").glob("run*")), "all results are in run.root"


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_driver_elsewhere_joins_by_ray_client(head: Head, tmp_path: Path) -> None:
    found = report(driver("relative,asking", head.client, tmp_path, head.token))
    assert found["note"] == "found"
    assert found["asked"] == [[1, 4, 9, 16], [4, 9, 16, 25]]


class TestSubmittedFiles:
    @pytest.fixture
    def copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder that a job is started in, as Ray lays it out."""
        folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
        (folder / "sub").mkdir(parents=True)
        monkeypatch.chdir(folder)
        return folder

    def test_a_folder_that_goes_with_the_job_is_refused(self, copy: Path, tmp_path: Path) -> None:
        assert submitted_files() == copy
        for folder in ("runs/mine", str(copy / "runs")):
            with pytest.raises(ClusterError, match=r"run\.root '.*' lies among the files .*; name a folder that all"):
                check_lasting(folder, key="run.root")
        check_lasting(str(tmp_path / "shared"), key="run.root")
        check_lasting("s3://bucket/runs", key="run.stores")

    def test_outside_of_a_job_every_folder_will_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert submitted_files() is None
        check_lasting("runs/mine", key="run.root")

    def test_what_a_job_brings_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
        assert not given_by_job()
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"py_modules": ["gcs://x.zip"]}}')
        assert set(given_by_job()) == {"py_modules"}
