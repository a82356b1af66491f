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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

from orchestrator import meters
from orchestrator.cluster.base import Cluster, InProcess
from orchestrator.cluster.homes import HOME_PREFIX, clear_abandoned_homes, end_processes, own_home
from orchestrator.cluster.jobs import given_by_job, submitted_files
from orchestrator.cluster.machines import Machine, Need, room
from orchestrator.cluster.placing import Places
from orchestrator.cluster.pools import Pool, PoolPlan
from orchestrator.cluster.ray_actors import RayActors, RayGangs
from orchestrator.cluster.ray_meters import RayMeters, links, prepare_actor
from orchestrator.cluster.ray_pool import open_ray_pool
from orchestrator.cluster.scheduler import Actors, Scheduler
from orchestrator.cluster.units import Outcome, R, Surroundings, U, Work, set_environment
from orchestrator.cluster.watching import watched
from orchestrator.credentials import without_credentials
from orchestrator.errors import ClusterError
from orchestrator.logs import ACTORS
from orchestrator.stopping import deaf_to_sigterm, stoppable

logger = logging.getLogger(__name__)

_PACKAGES = ("orchestrator", "vocab_tools")
_LONGEST_OUTPUT = 10 << 20
_JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


class RayCluster(Cluster):
    """Units on Ray actors; made by `open_cluster`."""

    def __init__(self, *, is_joined: bool, log_folder: Path, dashboard: str | None = None) -> None:
        self.is_joined = is_joined
        self.num_lost = 0
        self._actor_logs = log_folder.absolute() / ACTORS
        self.links = links(dashboard)
        meters.collect_with(RayMeters())

    @property
    def machines(self) -> Sequence[Machine]:
        """Those that Ray counts as alive."""
        import ray

        return tuple(_machine(node["Resources"]) for node in ray.nodes() if node["Alive"])

    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]:
        self._check_room(work.need, together=work.gang.size if work.gang else 1)
        prepare = partial(prepare_actor, self._actor_logs)
        work = replace(work, make_worker=watched(work.make_worker, work.label, prepare=prepare))
        if work.gang is not None:
            yield from self._scheduled(work, RayGangs[U, R](work, work.gang, _surroundings()))
            return
        with self._places(work.need, min(work.at_once, len(work.units))) as places:
            yield from self._scheduled(work, RayActors[R](work.need, places, _surroundings()))

    def _scheduled(self, work: Work[U, R], actors: Actors[R]) -> Iterator[Outcome[U, R]]:
        scheduler = Scheduler(work, actors)
        try:
            yield from scheduler.outcomes()
        finally:
            self.num_lost += scheduler.num_lost

    @contextmanager
    def pool(self, plan: PoolPlan[U, R]) -> Iterator[Pool[U, R]]:
        """Actors that Ray starts anew when they die."""
        self._check_room(plan.need)
        prepare = partial(prepare_actor, self._actor_logs, on_restart=plan.on_restart)
        plan = replace(plan, make_worker=watched(plan.make_worker, plan.label, prepare=prepare))
        with self._places(plan.need, plan.size) as places, open_ray_pool(plan, places, _surroundings()) as pool:
            try:
                yield pool
            finally:
                self.num_lost += pool.num_restarted()

    @contextmanager
    def _places(self, need: Need, count: int) -> Iterator[Places]:
        places = Places(need, count, num_machines=len(self.machines))
        try:
            yield places
        finally:
            places.close()

    def _check_room(self, need: Need, *, together: int = 1) -> None:
        machines = self.machines
        if not self.is_joined and machines[0].fits(need) < together and together > 1:
            raise ClusterError(
                f"{together} workers of one group ask for {need.times(together)}, and this machine has {machines[0]}; "
                "lower what the section 'cluster' gives to a student, or cluster.student_workers"
            )
        if room(machines, need):
            return
        found = "; ".join(sorted({str(machine) for machine in machines}))
        problem = f"a worker asks for {need}, and the machines of the cluster have: {found}"
        if not self.is_joined:
            raise ClusterError(f"{problem}; lower what the section 'cluster' gives to a teacher or student")
        logger.warning("%s; waiting until one with more joins", problem)


def _machine(resources: Mapping[str, float]) -> Machine:
    """A machine from what Ray knows of it; the marks that Ray itself puts on machines are left out."""
    named = {
        name: amount
        for name, amount in resources.items()
        if name not in ("CPU", "GPU", "memory", "object_store_memory") and ":" not in name
    }
    return Machine(
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        resources=named,
        object_store_bytes=int(resources.get("object_store_memory", 0.0)),
    )


def _surroundings() -> Surroundings:
    """What workers have in common with this process.

    Ray limits OpenMP to the reserved cores, but how many threads is for the worker to say. Relative paths mean the same
    everywhere, but for a job's own files, of which Ray gives each machine a copy.
    """
    here = Path.cwd()
    folder = None if submitted_files() == here else str(here)
    return Surroundings({"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}, folder)


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
    opened = (
        _joined_ray(address, join_seconds, log_folder)
        if address
        else _local_ray(object_store_bytes, num_cpus, log_folder)
    )
    try:
        with stoppable(), opened as cluster:
            yield cluster
    finally:
        meters.collect_with(None)


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
            _signals_kept(),
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
            cluster = _start_ray(home / "ray", object_store_bytes, num_cpus, log_folder)
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


def _on_loopback() -> AbstractContextManager[None]:
    """Ray as it is on systems that ask before a server listens to other machines: its own listen to this one alone."""
    from ray._private import ray_constants

    return _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """ray.init takes SIGTERM, first for Python, so that the process ends with status 15, then for C++, as a crash."""
    from ray._private import utils, worker

    connect = worker.connect  # when the processes of Ray are there, which therefore are not deaf

    def connect_deaf(*arguments: object, **options: object) -> None:
        with deaf_to_sigterm():
            connect(*arguments, **options)

    with (
        _replaced(utils, "set_sigterm_handler", lambda _handler: None),
        _replaced(worker, "connect", connect_deaf),
    ):
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@functools.cache
def _token() -> str:
    """One token for all clusters of this process, since Ray reads it once."""
    return secrets.token_hex(32)


def _start_ray(folder: Path, object_store_bytes: int, num_cpus: int | None, log_folder: Path) -> RayCluster:
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
        return RayCluster(is_joined=False, log_folder=log_folder)
    except Exception as error:
        raise ClusterError(
            f"Ray could not be started on this machine ({_first_line(error)}); try again when it is less "
            "busy, or run without Ray by --address in-process"
        ) from error


@contextmanager
def _joined_ray(address: str, join_seconds: float, log_folder: Path) -> Iterator[Cluster]:
    import ray

    advice = (
        "check the address, that the cluster runs, that this machine reaches it, and its token (RAY_AUTH_TOKEN_PATH)"
    )
    if address.startswith("ray://"):
        advice += (
            "; or try again: Ray's server for a client does not always come up, unless the head was started with "
            "GRPC_ENABLE_FORK_SUPPORT=0"
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
            environment = {} if "py_modules" in given_by_job() else {"py_modules": modules}
            with _signals_kept():
                context = ray.init(
                    address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR
                )
            cluster = RayCluster(is_joined=True, log_folder=log_folder, dashboard=context.dashboard_url)
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
