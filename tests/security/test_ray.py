"""A local Ray: nobody without its token comes in, its folder is closed, nothing listens but to this machine."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster import Cluster, Need, open_cluster
from orchestrator.errors import ClusterError
from tests.security.figures import IS_LONG
from tests.security.test_secrets import CANARIES, traces

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

_ASK = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("came in:", ray.cluster_resources()["CPU"])
"""


class Teller:
    """Says what it sees of its environment, and puts a secret into its output and into an error."""

    def run(self, unit: int) -> bool:
        print("worker says", os.environ["HF_TOKEN"], flush=True)
        if unit == 1:
            raise ValueError(f"the hub refused {os.environ['HF_TOKEN']}")
        return os.environ["HF_TOKEN"] == CANARIES["HF_TOKEN"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def cluster(logs: Path) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CANARIES.items():
            patch.setenv(name, value)
        with open_cluster(None, object_store_bytes=80 << 20, log_folder=logs, num_cpus=2) as started:
            yield started


#: Without it Ray asks at another address of this machine, where nobody listens.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def home_of() -> Path:
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]


def ask(address: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Join as somebody else on this machine would; `environment`: with which token."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", _ASK, address],
        env=plain | _ON_LOOPBACK | {"HOME": str(folder)} | environment,  # where Ray looks for a token of its own
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_wrong_or_missing_token_is_refused_and_the_right_one_is_not(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    address, token = ray.get_runtime_context().gcs_address, home_of() / "token"
    wrong = tmp_path / "token"
    wrong.write_text(secrets.token_hex(32))
    environments: list[dict[str, str]] = [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong)}]
    more = [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}]
    for environment in environments + more * IS_LONG:
        refused = ask(address, tmp_path, **environment)
        assert refused.returncode != 0, environment
        assert "came in" not in refused.stdout
        assert token.read_text() not in refused.stdout + refused.stderr
    welcome = ask(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert "came in: 2.0" in welcome.stdout, welcome.stderr


@pytest.mark.skipif(not IS_LONG, reason="the same by way of orch: `make fuzz`")
def test_orch_itself_is_refused_in_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    code = (
        "import sys; from pathlib import Path; from orchestrator.cluster import open_cluster\n"
        "with open_cluster(sys.argv[1], object_store_bytes=1 << 26, log_folder=Path('.'), join_seconds=120):\n"
        "    print('came in')"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code, ray.get_runtime_context().gcs_address],
        env=plain | _ON_LOOPBACK | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    assert "came in" not in done.stdout
    assert ClusterError.__name__ in done.stderr
    assert "its token (RAY_AUTH_TOKEN_PATH)" in done.stderr


def test_its_folder_and_token_are_closed(cluster: Cluster) -> None:
    home = home_of()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
    assert home.stat().st_uid == os.geteuid()
    assert len((home / "token").read_text()) == 64
    assert home_of().is_relative_to(home)
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_nothing_listens_to_other_machines(cluster: Cluster) -> None:
    """The dashboard, if there is one, among them."""
    home, heard = home_of(), {}
    for process in psutil.process_iter(["pid", "name"]):
        try:
            if process.pid != os.getpid() and not any(str(home) in word for word in process.cmdline()):
                continue
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    heard[f"{process.name()}:{connection.laddr.port}"] = connection.laddr.ip
        except psutil.Error:
            continue
    assert heard, "its servers are found"
    assert set(heard.values()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, heard


def test_secrets_reach_workers_and_no_file_of_orch(cluster: Cluster, logs: Path) -> None:
    """Workers inherit the environment; what they print or raise is masked wherever orch keeps it."""
    from orchestrator.cluster.on_ray import _copy_worker_output

    outcomes = list(
        cluster.run_units(
            Teller, range(3), need=Need(1.0), workers=1, deadline_seconds=120.0, max_attempts=1, label=str
        )
    )
    assert {outcome.unit: outcome.result for outcome in outcomes} == {0: True, 1: None, 2: True}
    (failed,) = [outcome for outcome in outcomes if outcome.error]
    assert "the hub refused ***" in (failed.error or "")
    _copy_worker_output(home_of() / "ray", logs / "ray")
    assert any("worker says ***" in path.read_text() for path in (logs / "ray").iterdir())
    assert traces(logs, failed.error or "") == []
    said_by_workers = {path.name for path in (home_of() / "ray").glob("session_*/logs/worker-*")}
    leaks = [line for line in traces(home_of()) if not any(f"{name}: " in line for name in said_by_workers)]
    assert leaks == [], "only the outputs of workers, in the closed folder, may hold what they print"
