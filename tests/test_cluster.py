"""Units on workers: the rules with fake actors, then the same on a real Ray with workers that hang and are killed."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster import Cluster, Gang, InProcess, Need, Outcome, open_cluster
from orchestrator.cluster.scheduler import LostWorkerError, Scheduler
from orchestrator.cluster.units import Host, Reply, Work
from orchestrator.errors import ClusterError, DataError, UnitError

Fate = Literal["done", "dies", "hangs", "dies at once"]
Ref = tuple[int, int]


class Doubler:
    """Doubles; refuses 13 as a person's mistake and 14 as a defect."""

    def run(self, unit: int) -> int:
        if unit == 13:
            raise DataError("13 is not in the corpus")
        if unit == 14:
            raise ValueError("no such row")
        return 2 * unit


class Defective(Doubler):
    """Code that is wrong whatever the unit."""

    def run(self, unit: int) -> int:
        raise KeyError(unit)


class Hungry(Doubler):
    """Has no memory for unit 3."""

    def run(self, unit: int) -> int:
        if unit == 3:
            raise MemoryError
        return 2 * unit


def refuse_to_start() -> Doubler:
    raise DataError("the checkpoint is missing")


def name_of(unit: int) -> str:
    return f"unit {unit}"


def run(
    cluster: Cluster,
    make_worker: Callable[[], Doubler],
    units: range,
    *,
    workers: int = 2,
    deadline_seconds: float = 30.0,
    max_attempts: int = 3,
    fresh_worker: bool = False,
    cpus: float = 1.0,
) -> list[Outcome[int, int]]:
    return list(
        cluster.run_units(
            make_worker,
            units,
            need=Need(cpus),
            workers=workers,
            deadline_seconds=deadline_seconds,
            max_attempts=max_attempts,
            label=name_of,
            fresh_worker=fresh_worker,
        )
    )


@dataclass(frozen=True)
class Seated:
    """A unit of a gang; rank 1 dies at its first attempt at number 2, rank 2 refuses number 3."""

    number: int
    rank: int = 0
    size: int = 1
    address: str = ""


def seated(unit: Seated, rank: int, size: int, address: str) -> Seated:
    return Seated(unit.number, rank, size, address)


@dataclass(frozen=True)
class Meeting:
    """Waits until all of its gang have come, as a collective would."""

    folder: Path

    def run(self, unit: Seated) -> tuple[int, int, str]:
        attempts = len(list(self.folder.glob(f"tried-{unit.number}-{unit.rank}-*")))
        (self.folder / f"tried-{unit.number}-{unit.rank}-{attempts}").touch()
        if (unit.number, unit.rank, attempts) == (2, 1, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if (unit.number, unit.rank) == (3, 2):
            raise DataError("rank 2 has no such file")
        (self.folder / f"{unit.number}-{unit.rank}").write_text(unit.address)
        while len(list(self.folder.glob(f"{unit.number}-*"))) < unit.size:
            time.sleep(0.01)
        return unit.rank, unit.size, unit.address


def meet(cluster: Cluster, folder: Path, *numbers: int, size: int) -> list[Outcome[Seated, tuple[int, int, str]]]:
    return list(
        cluster.run_units(
            partial(Meeting, folder),
            [Seated(number) for number in numbers],
            need=Need(1.0),
            workers=2,
            deadline_seconds=60.0,
            max_attempts=2,
            label=str,
            fresh_worker=True,
            gang=Gang(size, seated),
        )
    )


class TestInProcess:
    def test_units_run_in_order_on_one_worker(self) -> None:
        made = []

        def make() -> Doubler:
            made.append(1)
            return Doubler()

        outcomes = run(InProcess(), make, range(5))
        assert [(o.unit, o.result, o.attempts, o.error) for o in outcomes] == [(u, 2 * u, 1, None) for u in range(5)]
        assert len(made) == 1
        run(InProcess(), make, range(5), fresh_worker=True)
        assert len(made) == 6

    def test_errors_for_people_pass_unchanged(self) -> None:
        with pytest.raises(DataError, match=r"^13 is not in the corpus$"):
            run(InProcess(), Doubler, range(10, 20))
        with pytest.raises(DataError, match="checkpoint is missing"):
            run(InProcess(), refuse_to_start, range(3))

    def test_a_defect_names_its_unit_and_stops_no_other(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        outcomes = run(InProcess(), Doubler, range(14, 17))
        assert [outcome.result for outcome in outcomes] == [None, 30, 32]
        assert outcomes[0].error is not None
        assert re.match(r"unit 14 failed .*ValueError: no such row$", outcomes[0].error)
        assert "raise ValueError" in caplog.text

    def test_code_that_always_fails_is_not_tried_on_every_unit(self) -> None:
        with pytest.raises(UnitError, match=r"^unit 3 failed .*KeyError: 3. The first 3 units all failed") as raised:
            run(InProcess(), Defective, range(1, 9))
        assert "raise KeyError" in "".join(raised.value.__notes__)

    def test_no_units_no_worker(self) -> None:
        assert run(InProcess(), refuse_to_start, range(0)) == []

    def test_interrupts_are_left_alone(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        run(InProcess(), Doubler, range(2))
        assert signal.getsignal(signal.SIGINT) is before


class FakeActors:
    """Actors that do a call when it is waited for, in random order; `fates` says how each attempt at a unit goes.

    There is room for `room` of them at a time; the others wait for it.
    """

    def __init__(
        self,
        fates: dict[int, list[Fate]],
        *,
        start_fates: tuple[Fate, ...] = (),
        seed: int = 0,
        depth: int = 2,
        room: int = 1000,
    ) -> None:
        self.room, self.placed = room, set[int]()
        self.fates, self.start_fates = {unit: list(many) for unit, many in fates.items()}, list(start_fates)
        self.random, self.depth = random.Random(seed), depth
        self.hosts: dict[int, Host[int, int]] = {}
        self.alive: set[int] = set()
        self.most_alive = 0
        self.calls: dict[Ref, tuple[str, object]] = {}
        self.begun: dict[Ref, Fate] = {}
        self.replies: dict[Ref, Reply[int] | None] = {}
        self.runs: list[tuple[int, int]] = []

    def new(self) -> int:
        actor = len(self.hosts)
        self.hosts[actor] = Host()
        self.alive.add(actor)
        self.most_alive = max(self.most_alive, len(self.alive))
        return actor

    @property
    def waiting(self) -> int:
        """Actors that have found no room."""
        return len(self.alive - self.placed)

    def call(self, actor: int, method: str, argument: object) -> Ref:
        assert actor in self.alive
        ref = (actor, sum(known == actor for known, _ in self.calls))
        self.calls[ref] = (method, argument)
        in_flight = [known for known in self.calls if known[0] == actor and known not in self.replies]
        assert len(in_flight) <= (self.depth if method == "run" else 2)
        return ref

    def wait(self, refs: list[Ref], timeout_seconds: float | None) -> Ref | None:
        for ref in self.random.sample(refs, len(refs)):
            if self._ends(ref):
                return ref
        assert timeout_seconds is not None, "would wait for ever"
        return None

    def reply(self, ref: Ref) -> Reply[int]:
        reply = self.replies[ref]
        if reply is None:
            raise LostWorkerError("it was killed")
        return reply

    def end(self, actor: int) -> None:
        self.alive.remove(actor)

    def _ends(self, ref: Ref) -> bool:
        actor, (method, argument) = ref[0], self.calls[ref]
        if actor not in self.placed:
            if len(self.placed & self.alive) >= self.room:
                return False
            self.placed.add(actor)
        if ref not in self.begun:
            fates = {"settle": [], "start": self.start_fates}.get(method, self.fates.get(argument, []))
            self.begun[ref] = fates.pop(0) if fates else "done"
            if method == "run":
                self.runs.append((actor, argument))
        if self.begun[ref] == "hangs":
            return False
        if self.begun[ref].startswith("dies") or self._next_dies_at_once((actor, ref[1] + 1)):
            self.replies[ref] = None
        else:  # settling would change the signals of this process
            self.replies[ref] = Reply(None) if method == "settle" else getattr(self.hosts[actor], method)(argument)
        return True

    def _next_dies_at_once(self, following: Ref) -> bool:
        """The call in line behind kills the process before the reply to this one is out."""
        method, argument = self.calls.get(following, ("", None))
        if method != "run" or self.fates.get(argument, [])[:1] != ["dies at once"]:
            return False
        self.fates[argument].pop(0)
        self.runs.append((following[0], argument))
        return True


def work(
    units: range, *, workers: int = 2, max_attempts: int = 3, fresh_worker: bool = False, at_once: int | None = None
) -> Work[int, int]:
    return Work(Doubler, units, Need(1.0), workers, at_once or workers, 60.0, max_attempts, name_of, fresh_worker)


FATES = st.dictionaries(st.integers(20, 40), st.lists(st.sampled_from(["dies", "hangs"]), max_size=4))


class TestScheduler:
    @settings(deadline=None)
    @given(
        fates=FATES,
        count=st.integers(0, 21),
        workers=st.integers(1, 6),
        max_attempts=st.integers(1, 4),
        fresh=st.booleans(),
        seed=st.integers(0, 2**32),
    )
    def test_every_unit_has_one_outcome_whatever_dies(
        self, fates: dict[int, list[Fate]], count: int, workers: int, max_attempts: int, fresh: bool, seed: int
    ) -> None:
        actors = FakeActors(fates, seed=seed, depth=1 if fresh else 2)
        job = work(range(20, 20 + count), workers=workers, max_attempts=max_attempts, fresh_worker=fresh)
        outcomes = list(Scheduler(job, actors).outcomes())

        assert sorted(outcome.unit for outcome in outcomes) == list(job.units)
        sent = Counter(argument for method, argument in actors.calls.values() if method == "run")
        assert sent == {outcome.unit: outcome.attempts for outcome in outcomes}
        begun = Counter(unit for _, unit in actors.runs)
        for outcome in outcomes:
            in_line = outcome.attempts - begun[outcome.unit]  # when the worker died, which counts, once
            assert in_line in (0, 1)
            failures = len(fates.get(outcome.unit, [])) + in_line
            if failures >= max_attempts:
                assert outcome.result is None
                assert outcome.attempts == max_attempts
                assert f"unit {outcome.unit} lost its worker {max_attempts} times" in outcome.error
            else:
                assert (outcome.result, outcome.error) == (2 * outcome.unit, None)
                assert outcome.attempts == failures + 1
        assert not actors.alive
        assert actors.most_alive <= workers
        if fresh:
            assert max(Counter(actor for actor, _ in actors.runs).values(), default=0) <= 1

    @settings(deadline=None)
    @given(poison=st.sets(st.integers(0, 29), max_size=6), workers=st.integers(1, 4), seed=st.integers(0, 2**32))
    def test_a_unit_that_shares_a_worker_with_a_killer_is_done(self, poison: set[int], workers: int, seed: int) -> None:
        actors = FakeActors({100 + unit: ["dies at once"] * 99 for unit in poison}, seed=seed)
        outcomes = list(Scheduler(work(range(100, 130), workers=workers, max_attempts=2), actors).outcomes())
        assert {outcome.unit - 100 for outcome in outcomes if outcome.error is not None} == poison
        assert sorted(outcome.unit for outcome in outcomes) == list(range(100, 130))
        assert max(Counter(unit for _, unit in actors.runs).values()) <= 2

    def test_workers_that_cannot_start_end_the_run(self) -> None:
        actors = FakeActors({}, start_fates=("dies", "hangs", "dies"))
        with pytest.raises(ClusterError, match=r"a worker for unit 0 could not be started, 3 in a row were lost"):
            list(Scheduler(work(range(4), workers=1), actors).outcomes())
        assert not actors.alive

    def test_a_start_that_succeeds_forgives_those_before(self) -> None:
        actors = FakeActors({0: ["dies"], 1: ["dies"]}, start_fates=("dies", "dies", "done", "dies", "dies", "done"))
        assert len(list(Scheduler(work(range(2), workers=1), actors).outcomes())) == 2

    def test_an_exception_of_a_unit_ends_the_run_and_all_actors(self) -> None:
        actors = FakeActors({})
        with pytest.raises(DataError, match="13 is not in the corpus"):
            list(Scheduler(work(range(5, 14), workers=3), actors).outcomes())
        assert not actors.alive

    def test_a_defect_is_given_up_without_another_attempt_and_the_others_are_done(self) -> None:
        outcomes = list(Scheduler(work(range(14, 24), workers=3), FakeActors({})).outcomes())
        assert [(o.unit, o.attempts) for o in outcomes if o.error is not None] == [(14, 1)]
        assert sorted(o.unit for o in outcomes) == list(range(14, 24))

    def test_code_that_always_fails_ends_the_run_and_all_actors(self) -> None:
        actors = FakeActors({})
        with pytest.raises(UnitError, match="The first 3 units all failed, so the rest was not begun"):
            list(Scheduler(replace(work(range(30), workers=2), make_worker=Defective), actors).outcomes())
        assert not actors.alive
        assert len(actors.runs) <= 5

    def test_a_worker_without_memory_is_replaced(self) -> None:
        actors = FakeActors({})
        outcomes = list(Scheduler(replace(work(range(6)), make_worker=Hungry), actors).outcomes())
        assert [(o.unit, o.attempts) for o in outcomes if o.error is not None] == [(3, 3)]
        assert all("ran out of memory" in o.error for o in outcomes if o.error is not None)
        assert len(actors.hosts) >= 3

    def test_actors_end_when_the_caller_stops_listening(self) -> None:
        actors = FakeActors({})
        outcomes = Scheduler(work(range(20, 40), workers=3), actors).outcomes()
        next(outcomes)
        outcomes.close()
        assert not actors.alive

    @settings(deadline=None)
    @given(room=st.integers(1, 5), more=st.integers(0, 5), at_once=st.integers(1, 6), seed=st.integers(0, 2**32))
    def test_actors_come_with_machines_that_join_and_go_when_no_unit_is_left_for_them(
        self, room: int, more: int, at_once: int, seed: int
    ) -> None:
        count, most = 300, 8  # so many that chance, which says whose call ends next, comes to every actor
        actors = FakeActors({}, seed=seed, room=room)
        scheduler = Scheduler(work(range(100, 100 + count), workers=most, at_once=at_once), actors)
        placed_late = 0
        for number, _ in enumerate(scheduler.outcomes(), start=1):
            if number == 30:
                actors.room += more  # a machine joins in the middle of the work
            found = len(actors.placed & actors.alive)
            assert len(actors.alive) <= min(most, max(at_once, 2 * found))
            assert len(actors.alive) <= count - number + 1
            if number == count - 10:
                placed_late = found
        assert placed_late == min(most, room + more)
        assert not actors.alive

    def test_one_actor_waits_for_room_in_a_cluster_that_has_none(self) -> None:
        actors = FakeActors({}, room=0)
        with pytest.raises(AssertionError, match="would wait for ever"):
            list(Scheduler(work(range(20), workers=9, at_once=1), actors).outcomes())
        assert actors.most_alive == 1

    def test_no_unit_waits_in_line_while_a_worker_is_idle(self) -> None:
        actors = FakeActors({}, depth=1)  # as many units as workers: a second call in flight would be an error
        assert len(list(Scheduler(work(range(4), workers=4), actors).outcomes())) == 4


@pytest.mark.ray
def test_a_cluster_that_does_not_answer_is_an_error_with_advice(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match=rf"no Ray cluster answers at '{address}' within 3 seconds; check"),
            open_cluster(address, object_store_bytes=80 << 20, log_folder=tmp_path, join_seconds=3.0),
        ):
            pass


@dataclass(frozen=True)
class Rough:
    """Is killed at unit 3 the first time and at unit 5 every time, hangs at unit 7 the first time, else works 50 ms."""

    folder: Path

    def run(self, unit: int) -> tuple[int, float, float]:
        attempts = self.folder / str(unit)
        with attempts.open("a") as file:
            file.write("x")
        num_attempts = attempts.stat().st_size
        started = time.time()
        if unit == 5 or (unit == 3 and num_attempts == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60.0 if unit == 7 and num_attempts == 1 else 0.05)
        return os.getpid(), started, time.time()


class Inspector:
    def run(self, unit: int) -> tuple[int, str | None, bool]:
        return os.getpid(), os.environ.get("OMP_NUM_THREADS"), signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with open_cluster(
        None, object_store_bytes=80 << 20, log_folder=tmp_path_factory.mktemp("logs"), num_cpus=8
    ) as started:
        yield started


@pytest.mark.ray
class TestRay:
    def test_it_has_what_was_asked_for(self, cluster: Cluster) -> None:
        assert (cluster.cpus, cluster.gpus) == (8.0, 0.0)

    def test_nobody_else_can_look_in(self, cluster: Cluster) -> None:
        import ray

        home = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ

    def test_killed_and_hanging_workers_are_replaced(
        self, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            outcomes = run(
                cluster, partial(Rough, tmp_path), range(12), workers=3, deadline_seconds=4.0, max_attempts=3
            )
        assert sorted(outcome.unit for outcome in outcomes) == list(range(12))
        assert {o.unit for o in outcomes if o.attempts > 1} >= {5, 7}
        assert [o.unit for o in outcomes if o.error is not None] == [5]
        assert {o.unit for o in outcomes if o.result is not None} == set(range(12)) - {5}
        assert all((tmp_path / str(unit)).stat().st_size >= 2 for unit in (3, 5, 7))
        assert re.search(r"unit 7 lost its worker \(attempt [12] of 3\): it took longer than 4 seconds", caplog.text)
        assert "unit 5 lost its worker (attempt 3 of 3): its process or machine died" in caplog.text

    def test_a_gang_does_each_unit_together_and_is_lost_together(self, cluster: Cluster, tmp_path: Path) -> None:
        outcomes = meet(cluster, tmp_path, 1, 2, size=3)
        assert sorted(outcome.unit.number for outcome in outcomes) == [1, 2]
        for outcome in outcomes:
            assert outcome.attempts == outcome.unit.number, "rank 1 of unit 2 dies at its first attempt"
            assert outcome.result is not None
            assert outcome.result[:2] == (0, 3)
            host, port = outcome.result[2].rsplit(":", 1)
            assert host
            assert 0 < int(port) < 65536
        assert len(list(tmp_path.glob("1-*"))) == 3
        assert len({path.read_text() for path in tmp_path.glob("1-*")}) == 1, "all meet at one address"

    def test_what_one_of_a_gang_raises_ends_the_run(self, cluster: Cluster, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="rank 2 has no such file"):
            meet(cluster, tmp_path, 3, size=3)

    def test_a_gang_without_room_is_refused(self, cluster: Cluster, tmp_path: Path) -> None:
        problem = "9 workers of one group ask for 9 CPUs and 0 GPUs, and this machine has 8"
        with pytest.raises(ClusterError, match=problem):
            meet(cluster, tmp_path, 1, size=9)

    def test_every_worker_stays_busy(self, cluster: Cluster, tmp_path: Path) -> None:
        """Busy share while all eight live; a quiet machine gives 0.96, a loaded one is allowed less."""
        outcomes = run(cluster, partial(Rough, tmp_path), range(100, 400), workers=8)
        spans = defaultdict(list)
        for outcome in outcomes:
            process, started, ended = outcome.result
            spans[process].append((started, ended))
        assert len(spans) == 8
        begin = max(min(started for started, _ in mine) for mine in spans.values())
        end = min(max(ended for _, ended in mine) for mine in spans.values())
        busy = sum(
            max(0.0, min(ended, end) - max(started, begin)) for mine in spans.values() for started, ended in mine
        )
        assert busy / (8 * (end - begin)) > 0.6

    def test_a_fresh_worker_per_unit_with_threads_of_its_own_choice(self, cluster: Cluster) -> None:
        outcomes = run(cluster, Inspector, range(4), fresh_worker=True)
        processes, threads, ignores_interrupts = zip(*(outcome.result for outcome in outcomes), strict=True)
        assert len(set(processes)) == 4
        assert set(threads) == {os.environ.get("OMP_NUM_THREADS")}
        assert all(ignores_interrupts)

    def test_errors_cross_processes_as_they_are(self, cluster: Cluster) -> None:
        with pytest.raises(DataError, match=r"^13 is not in the corpus$"):
            run(cluster, Doubler, range(13, 14))
        (outcome,) = run(cluster, Doubler, range(14, 15))
        assert (outcome.result, outcome.attempts) == (None, 1)
        assert re.match(r"unit 14 failed .*ValueError: no such row$", outcome.error)
        with pytest.raises(DataError, match="checkpoint is missing"):
            run(cluster, refuse_to_start, range(2))

    def test_what_no_machine_has_is_refused_at_once(self, cluster: Cluster) -> None:
        with pytest.raises(ClusterError, match=r"asks for 9 CPUs and 0 GPUs, and .* have: 8 CPUs and 0 GPUs"):
            run(cluster, Doubler, range(2), cpus=9.0)

    def test_a_second_ray_is_refused_and_leaves_the_first(self, cluster: Cluster, tmp_path: Path) -> None:
        with (
            pytest.raises(ClusterError, match="already runs in this process"),
            open_cluster(None, object_store_bytes=80 << 20, log_folder=tmp_path),
        ):
            pass
        assert len(run(cluster, Doubler, range(2))) == 2


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
from functools import partial
from pathlib import Path
from orchestrator.cluster import Need, open_cluster

class Sleeper:
    def __init__(self, folder):
        self.folder = folder
    def run(self, unit):
        print("a word from the worker", flush=True)
        (self.folder / str(unit)).touch()
        time.sleep(60)

folder = Path(sys.argv[1])
with open_cluster(None, object_store_bytes=80 << 20, log_folder=folder / "logs", num_cpus=2) as cluster:
    options = dict(need=Need(1.0), workers=2, deadline_seconds=float("inf"), max_attempts=1, label=str)
    for _ in cluster.run_units(partial(Sleeper, folder), range(2), **options):
        pass
"""


@pytest.mark.ray
@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_interrupted_it_leaves_no_process_and_no_folder(number: signal.Signals, to_group: bool, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(tmp_path.glob("[01]"))) == 2 or driver.poll() is not None)
        family = psutil.Process(driver.pid).children(recursive=True)
        words = [word for member in family for word in member.cmdline()]
        home = next(Path(word.removeprefix("--temp_dir=")).parent for word in words if word.startswith("--temp_dir="))
        if to_group:
            os.killpg(driver.pid, number)
        else:
            driver.send_signal(number)
        _, complaint = driver.communicate(timeout=30)
    finally:
        driver.kill()
        driver.wait()
    assert "KeyboardInterrupt" in complaint
    _, left = psutil.wait_procs(family, timeout=5)
    assert [member for member in left if member.status() != psutil.STATUS_ZOMBIE] == []
    assert not home.exists()
    assert "a word from the worker" in "".join(path.read_text() for path in (tmp_path / "logs" / "ray").iterdir())


STOPPED_AT_ITS_START = """
import os, signal, sys
from pathlib import Path
import ray
from orchestrator.cluster import open_cluster
from orchestrator.stopping import Stop

start = ray.init

def start_and_be_stopped(**options):
    start(**options)
    os.kill(os.getpid(), signal.SIGTERM)

ray.init = start_and_be_stopped
try:
    with open_cluster(None, object_store_bytes=80 << 20, log_folder=Path(sys.argv[1]), num_cpus=1):
        pass
except Stop:
    print("stopped", ray.is_initialized())
"""


@pytest.mark.ray
def test_ray_does_not_take_sigterm_while_it_starts(tmp_path: Path) -> None:
    """By its own handler the process would end with status 15 wherever it is."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", STOPPED_AT_ITS_START, str(tmp_path)]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "stopped False\n"), ended.stderr


def wait_until(condition: Callable[[], bool], *, seconds: float = 150.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
