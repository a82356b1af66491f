"""A cluster of several machines: where actors go, machines that join, groups at once, what the object store holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.cluster import Cluster, Gang, Need, Outcome, Pool, PoolPlan, open_cluster, room
from tests.machines import ROOT, environment, machines

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Place:
    """Where and when a unit was done."""

    machine: str
    process: int
    gpus: str
    began: float
    ended: float
    padding: bytes = b""


@dataclass(frozen=True)
class Job:
    """A unit: how long it takes, and how much it brings back."""

    number: int
    seconds: float = 0.0
    num_bytes: int = 0
    rank: int = 0


class Placer:
    """Says where it is."""

    def run(self, unit: Job) -> Place:
        import ray

        began = time.time()
        time.sleep(unit.seconds)
        context = ray.get_runtime_context()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Place(context.get_node_id(), os.getpid(), visible, began, time.time(), bytes(unit.num_bytes))


class Opener:
    """Reads a file by a relative path, and says whose code it is."""

    def run(self, unit: Job) -> tuple[str, str]:
        import orchestrator

        return Path("note").read_text(), str(orchestrator.__file__)


class Squares:
    """Answers."""

    def run(self, unit: int) -> int:
        return unit * unit


class Asker:
    """Asks a pool in its turn."""

    def run(self, unit: tuple[int, Pool[int, int]]) -> list[int | None]:
        first, pool = unit
        pending = [pool.submit(number) for number in range(first, first + 4)]
        return [one.result() for one in pending]


def seated(unit: Job, rank: int, _size: int, _address: str) -> Job:
    return replace(unit, rank=rank)


def done(cluster: Cluster, units: list[Job], need: Need, *, fresh: bool = False, gang: int = 1) -> list[Place]:
    """Where each unit was done, all at once if there is room."""
    outcomes = cluster.run_units(
        Placer,
        units,
        need=need,
        workers=len(units),
        deadline_seconds=120.0,
        max_attempts=1,
        label=str,
        fresh_worker=fresh,
        gang=Gang(gang, seated) if gang > 1 else None,
    )
    return [outcome.result for outcome in outcomes if outcome.result is not None]


def store_used() -> float:
    """Bytes that the object stores of all machines hold."""
    import ray

    return ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]


# What follows runs in processes of their own, `python -m tests.test_cluster_nodes NAME,… ADDRESS FOLDER`.


def placing(cluster: Cluster, folder: Path) -> dict[str, object]:
    """Packed, spread, by a resource of one machine, four on a GPU, two groups at once."""
    found: dict[str, object] = {"machines": sorted(map(str, cluster.machines))}
    for name, need in {
        "packed": Need(0.5),  # a machine whose actors have not quite gone has room for one more
        "spread": Need(0.5, spread=True),
        "named": Need(0.5, resources={"fast": 1.0}),
    }.items():
        found[name] = len({place.machine for place in done(cluster, [Job(1), Job(2)], need, fresh=True)})
    quarter = Need(0.25, 0.25)
    found["quarters"] = room(cluster.machines, quarter)
    on_gpu = done(cluster, [Job(number, seconds=0.1) for number in range(4)], quarter, fresh=True)
    found["gpu"] = sorted({place.gpus for place in on_gpu})
    found["gpu processes"] = len({place.process for place in on_gpu})
    groups = done(cluster, [Job(1, seconds=2.0), Job(2, seconds=2.0)], Need(1.0), fresh=True, gang=2)
    found["overlap"] = min(place.ended for place in groups) - max(place.began for place in groups)
    return found


def joining(cluster: Cluster, folder: Path) -> dict[str, object]:
    """Units on one machine, until another one joins in the middle."""
    outcomes: Iterator[Outcome[Job, Place]] = cluster.run_units(
        Placer,
        [Job(number, seconds=0.2) for number in range(120)],
        need=Need(1.0),
        workers=120,
        at_once=2,
        deadline_seconds=120.0,
        max_attempts=1,
        label=str,
    )
    before, after = set(), set()
    for number, outcome in enumerate(outcomes, start=1):
        assert outcome.result is not None
        (before if number <= 20 else after).add((outcome.result.machine, outcome.result.process))
        if number == 20:
            (folder / "join").touch()
    return {
        "machines before": len({machine for machine, _ in before}),
        "machines after": len({machine for machine, _ in after}),
        "actors before": len(before),
        "actors after": len(after),
    }


def storing(cluster: Cluster, folder: Path) -> dict[str, object]:
    """Results of the size of a receipt, and far larger ones, with a driver that is slow to take them."""
    used = {}
    for name, size in (("receipts", 20_000), ("large", 4_000_000)):
        used[name] = 0.0
        jobs = [Job(number, num_bytes=size) for number in range(60)]
        for outcome in cluster.run_units(
            Placer, jobs, need=Need(1.0), workers=2, deadline_seconds=120.0, max_attempts=1, label=str
        ):
            assert outcome.result is not None
            time.sleep(0.05)
            used[name] = max(used[name], store_used())
    return {name: most / 1e6 for name, most in used.items()}


def relative(cluster: Cluster, folder: Path) -> dict[str, object]:
    """A relative path means the same to a worker as to its driver."""
    os.chdir(folder)
    Path("note").write_text("found")
    outcomes = cluster.run_units(
        Opener, [Job(1)], need=Need(1.0), workers=1, deadline_seconds=60.0, max_attempts=1, label=str
    )
    (outcome,) = outcomes
    assert outcome.result is not None
    note, code = outcome.result
    return {"note": note, "code": code}


def asking(cluster: Cluster, folder: Path) -> dict[str, object]:
    """Workers ask a pool whose handle the driver sends them."""
    plan = PoolPlan(Squares, 1, Need(0.5), 60.0, 1, str)
    with cluster.pool(plan) as pool:
        outcomes = cluster.run_units(
            Asker,
            [(1, pool), (2, pool)],
            need=Need(0.5),
            workers=2,
            deadline_seconds=60.0,
            max_attempts=1,
            label=lambda unit: str(unit[0]),
        )
        found = {outcome.unit[0]: outcome.result for outcome in outcomes}
    return {"asked": [found[1], found[2]]}


def driver(names: str, address: str, folder: Path, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Some of the functions above, in a process of their own, with a copy of the code that the machines lack."""
    for package in ("orchestrator", "vocab_tools"):
        shutil.copytree(ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    own = {"PYTHONPATH": os.pathsep.join((str(folder / "code"), str(ROOT)))}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.test_cluster_nodes", names, address, str(folder)],
        cwd=folder,
        env=environment(**own, **(variables or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def report(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found = json.loads(out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one driver saw of two machines with two CPUs, of which one has a GPU and a resource of its own."""
    with machines({"num_cpus": 2, "num_gpus": 1, "resources": {"fast": 2}}, {"num_cpus": 2}) as two:
        return report(driver("placing,storing,relative", two.address, tmp_path_factory.mktemp("driver")))


def test_actors_are_packed_or_spread_or_follow_a_resource(found: dict[str, object]) -> None:
    assert found["machines"] == ["0 CPUs and 0 GPUs", "2 CPUs and 0 GPUs", "2 CPUs and 1 GPUs, 2 fast"]
    assert (found["packed"], found["spread"], found["named"]) == (1, 2, 1)


def test_several_actors_share_a_gpu(found: dict[str, object]) -> None:
    assert (found["quarters"], found["gpu"], found["gpu processes"]) == (4, ["0"], 4)


def test_groups_that_share_nothing_run_at_once(found: dict[str, object]) -> None:
    assert isinstance(found["overlap"], float)
    assert found["overlap"] > 0


def test_the_object_store_holds_two_results_of_each_actor_at_most(found: dict[str, object]) -> None:
    assert found["receipts"] == 0.0, "what is smaller than 100 kB travels in the reply itself"
    assert isinstance(found["large"], float)
    assert found["large"] <= 2 * (2 + 1) * 4.1  # two actors; what the driver has taken is freed a moment later


def test_relative_paths_mean_the_same_everywhere(found: dict[str, object]) -> None:
    assert found["note"] == "found"


def test_the_code_travels(found: dict[str, object]) -> None:
    assert "py_modules_files" in str(found["code"])


def test_actors_come_with_a_machine_that_joins_in_the_middle(tmp_path: Path) -> None:
    with machines({"num_cpus": 2}) as one:
        process = driver("joining", one.address, tmp_path)
        try:
            while not (tmp_path / "join").exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            one.add(num_cpus=2)
            found = report(process)
        finally:
            process.kill()
    assert found == {"machines before": 1, "machines after": 2, "actors before": 2, "actors after": 4}


if __name__ == "__main__":
    from tests import test_cluster_nodes as itself  # what workers are sent is known there by this name

    tasks, where, place = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    with open_cluster(where, object_store_bytes=0, log_folder=place / "logs", join_seconds=120.0) as joined:
        results: dict[str, object] = {}
        for task in tasks.split(","):
            results |= getattr(itself, task)(joined, place)
    print(json.dumps(results))
