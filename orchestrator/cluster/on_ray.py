"""Ray, started on this machine or joined; it is imported only when it is used."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.cluster.base import Cluster, InProcess
from orchestrator.cluster.homes import HOME_PREFIX, clear_abandoned_homes, end_processes, own_home
from orchestrator.cluster.pools import Pool, PoolPlan
from orchestrator.cluster.ray_actors import RayActors, RayGangs
from orchestrator.cluster.ray_pool import open_ray_pool
from orchestrator.cluster.scheduler import Scheduler
from orchestrator.cluster.units import Outcome, R, U, Work, set_environment
from orchestrator.credentials import without_credentials
from orchestrator.errors import ClusterError
from orchestrator.stopping import stoppable

logger = logging.getLogger(__name__)

_PACKAGES = ("orchestrator", "vocab_tools")
_LONGEST_OUTPUT = 10 << 20
_JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
ray.shutdown()
"""


class RayCluster(Cluster):
    """Units on Ray actors; made by `open_cluster`."""

    def __init__(self, *, is_local: bool) -> None:
        import ray

        resources = ray.cluster_resources()
        self.cpus, self.gpus = float(resources.get("CPU", 0.0)), float(resources.get("GPU", 0.0))
        self.num_lost = 0
        self._is_local = is_local

    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]:
        self._check_room(work.cpus, work.gpus, together=work.gang.size if work.gang else 1)
        actors = RayGangs[U, R](work, work.gang) if work.gang else RayActors[R](work.cpus, work.gpus)
        scheduler = Scheduler(work, actors)
        try:
            yield from scheduler.outcomes()
        finally:
            self.num_lost += scheduler.num_lost

    @contextmanager
    def pool(self, plan: PoolPlan[U, R]) -> Iterator[Pool[U, R]]:
        """Actors that Ray starts anew when they die."""
        self._check_room(plan.cpus, plan.gpus)
        with open_ray_pool(plan) as pool:
            try:
                yield pool
            finally:
                self.num_lost += pool.num_restarted()

    def _check_room(self, cpus: float, gpus: float, *, together: int = 1) -> None:
        import ray

        if together > 1 and self._is_local and (together * cpus > self.cpus or together * gpus > self.gpus):
            raise ClusterError(
                f"{together} workers of one group ask for {together * cpus:g} CPUs and {together * gpus:g} GPUs, and "
                f"this machine has {self.cpus:g} and {self.gpus:g}; lower what the section 'cluster' gives to a "
                "student, or cluster.student_workers"
            )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        rooms = {(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes}
        if any(cpus <= has_cpus and gpus <= has_gpus for has_cpus, has_gpus in rooms):
            return
        found = ", ".join(f"{has_cpus:g} and {has_gpus:g}" for has_cpus, has_gpus in sorted(rooms))
        problem = f"a worker asks for {cpus:g} CPUs and {gpus:g} GPUs, and the machines of the cluster have {found}"
        if self._is_local:
            raise ClusterError(f"{problem}; lower what the section 'cluster' gives to a teacher or student")
        logger.warning("%s; waiting until one with more joins", problem)


@contextmanager
def open_cluster(
    address: str | None,
    *,
    object_store_bytes: int,
    log_folder: Path,
    num_cpus: int | None = None,
    join_seconds: float = 20.0,
) -> Iterator[Cluster]:
    """A cluster for the length of the block; afterwards no process of it is left.

    `address` None starts Ray on this machine, with `num_cpus` (its cores) and an object store of `object_store_bytes`;
    `in-process` uses no Ray; `auto`, HOST:PORT or ray://HOST:PORT joins a cluster that must answer in `join_seconds`.
    When a worker of a local Ray was lost or the block raises, what the workers printed is copied to `log_folder`/ray.
    SIGTERM interrupts the block as Ctrl-C does. Raises ClusterError when Ray does not start or answer, or runs already.
    """
    if address == "in-process":
        yield InProcess()
        return
    import ray

    if ray.is_initialized():
        raise ClusterError("Ray already runs in this process; call ray.shutdown() first, or use --address in-process")
    opened = _joined_ray(address, join_seconds) if address else _local_ray(object_store_bytes, num_cpus, log_folder)
    with stoppable(), opened as cluster, stoppable():  # the second time, since ray.init takes SIGTERM
        yield cluster


@contextmanager
def _local_ray(object_store_bytes: int, num_cpus: int | None, log_folder: Path) -> Iterator[Cluster]:
    import ray

    # Ray opens its session folder to everybody, and its ports too: hence a closed folder around it, and a token. The
    # paths of its sockets must stay below 107 bytes, which a long TMPDIR would break.
    place = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    clear_abandoned_homes(place)
    home = Path(tempfile.mkdtemp(prefix=HOME_PREFIX, dir=place))
    owner = own_home(home)
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(_token())
    failed = True
    try:
        with (
            _on_loopback(),
            _environment(
                {
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the same as `_on_loopback`, for other processes
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN_PATH": str(token),
                    "RAY_AUTH_TOKEN": None,
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "RAY_prestart_worker_first_driver": "0",  # else an idle Python per core
                }
            ),
        ):
            cluster = _start_ray(home / "ray", object_store_bytes, num_cpus)
        yield cluster
        failed = cluster.num_lost > 0
    finally:
        with ExitStack() as after:  # last in, first out, and each even if the one before it fails
            after.callback(os.close, owner)
            after.callback(shutil.rmtree, home, ignore_errors=True)
            if failed:
                after.callback(_copy_worker_output, home / "ray", log_folder / "ray")
            after.callback(end_processes, home)
            after.callback(ray.shutdown)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray as it is on systems that ask before a server listens to other machines: its own listen to this one alone."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@functools.cache
def _token() -> str:
    """One token for all clusters of this process, since Ray reads it once."""
    return secrets.token_hex(32)


def _start_ray(folder: Path, object_store_bytes: int, num_cpus: int | None) -> RayCluster:
    import ray

    ray._raylet.Config.initialize("")  # it read the environment when it was imported
    cores = len(os.sched_getaffinity(0))
    if num_cpus is None and cores != os.cpu_count():
        num_cpus = cores  # Ray sees the limits of a container, but not those of a batch system
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
        return RayCluster(is_local=True)
    except Exception as error:
        raise ClusterError(
            f"Ray could not be started on this machine ({_first_line(error)}); try again when it is less "
            "busy, or run without Ray by --address in-process"
        ) from error


@contextmanager
def _joined_ray(address: str, join_seconds: float) -> Iterator[Cluster]:
    import ray

    advice = (
        "check the address, that the cluster runs, that this machine reaches it, and its token (RAY_AUTH_TOKEN_PATH)"
    )
    try:  # ray.init hangs for minutes, deaf to Ctrl-C, when nobody answers: so another process tries first
        subprocess.run(
            [sys.executable, "-c", _JOIN, address], check=True, capture_output=True, text=True, timeout=join_seconds
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"no Ray cluster answers at '{address}' within {join_seconds:g} seconds; {advice}") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"the Ray cluster at '{address}' cannot be joined ({reason}); {advice}") from None
    sources = Path(__file__).resolve().parents[2]
    modules = [str(sources / package) for package in _PACKAGES]
    try:
        try:
            ray.init(
                address=address, runtime_env={"py_modules": modules}, log_to_driver=False, logging_level=logging.ERROR
            )
            cluster = RayCluster(is_local=False)
        except Exception as error:
            raise ClusterError(
                f"the Ray cluster at '{address}' cannot be joined ({_first_line(error)}); {advice}"
            ) from error
        yield cluster
    finally:
        ray.shutdown()


@contextmanager
def _environment(variables: dict[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    set_environment(variables)
    try:
        yield
    finally:
        set_environment(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _copy_worker_output(session_root: Path, folder: Path) -> None:
    """Keep what workers printed, crashes included; most of the many files of a session say nothing."""
    for path in session_root.glob("session_*/logs/worker-*"):
        lines = path.read_bytes()[-_LONGEST_OUTPUT:].splitlines(keepends=True)
        said = [line for line in lines if not line.startswith(b":")]  # Ray's own marks: job and actor
        if said:
            folder.mkdir(parents=True, exist_ok=True)
            text = b"".join(said).decode(errors="replace")
            (folder / path.name).write_text(without_credentials(text), encoding="utf-8")
