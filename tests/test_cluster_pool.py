"""Pools of workers: the twin in this process, then a real Ray whose actors are killed and hang."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.cluster import Cluster, InProcess, Need, Pool, PoolPlan, open_cluster
from orchestrator.errors import ClusterError, DataError, UnitError
from orchestrator.records import Int64

MEGABYTE = 1 << 20


class Squares:
    """Answers with an array of a megabyte; some units are trouble."""

    def __init__(self) -> None:
        self.done = 0

    def run(self, unit: int) -> Int64 | None:
        self.done += 1
        if unit == 13:
            raise DataError("13 is not in the corpus")
        if unit == 14:
            raise ValueError("no such row")
        if unit == 15:
            return None
        if unit == 16:
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == 17:
            time.sleep(60)
        return np.full(MEGABYTE // 8, unit * unit)


@dataclass(frozen=True)
class DiesOnce:
    """Kills its process at the first unit, once."""

    note: Path

    def run(self, unit: int) -> Int64 | None:
        if unit == 3 and not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(4, unit)


def refuse_to_start() -> Squares:
    raise DataError("the checkpoint is missing")


def name_of(unit: int) -> str:
    return f"unit {unit}"


PLAN = PoolPlan(Squares, size=1, need=Need(0.5), deadline_seconds=30.0, max_attempts=2, label=name_of)


def value(pool: Pool[int, Int64 | None], unit: int) -> int:
    found = pool.submit(unit).result()
    assert found is not None
    return int(found[0])


class TestInProcess:
    def test_a_unit_is_done_once_and_when_it_is_waited_for(self) -> None:
        made: list[Squares] = []

        def make() -> Squares:
            made.append(Squares())
            return made[-1]

        with InProcess().pool(replace(PLAN, make_worker=make)) as pool:
            assert len(made) == 1
            pending = pool.submit(5)
            pool.submit(6)
            assert made[0].done == 0
            first = pending.result()
            assert first is pending.result()
            assert made[0].done == 1
            assert pool.submit(15).result() is None

    def test_what_a_unit_raises_is_raised_by_its_result(self) -> None:
        with InProcess().pool(PLAN) as pool:
            with pytest.raises(DataError, match=r"^13 is not in the corpus$"):
                pool.submit(13).result()
            with pytest.raises(UnitError, match=r"^unit 14 failed .*ValueError: no such row\n"):
                pool.submit(14).result()
            assert value(pool, 4) == 16

    def test_a_worker_that_cannot_be_made_is_refused_at_once(self) -> None:
        with (
            pytest.raises(DataError, match="checkpoint is missing"),
            InProcess().pool(replace(PLAN, make_worker=refuse_to_start)),
        ):
            pytest.fail("the pool opened")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("logs")
    with open_cluster(None, object_store_bytes=80 * MEGABYTE, log_folder=folder, num_cpus=2) as cluster:
        yield cluster


class Asker:
    """A worker that asks a pool in its turn."""

    def run(self, unit: tuple[int, Pool[int, Int64 | None]]) -> int:
        number, pool = unit
        pending = [pool.submit(number + more) for more in range(4)]
        total = 0
        for one in pending:
            found = one.result()
            assert found is not None
            assert not found.flags.writeable  # a view of the object store
            total += int(found[-1])
        return total


@pytest.mark.ray
class TestRay:
    def test_workers_of_the_cluster_ask_with_the_handle(self, cluster: Cluster) -> None:
        with cluster.pool(replace(PLAN, size=2)) as pool:
            outcomes = cluster.run_units(
                Asker,
                [(number, pool) for number in (1, 5)],
                need=Need(0.5),
                workers=2,
                deadline_seconds=60.0,
                max_attempts=1,
                label=lambda unit: f"asker {unit[0]}",
            )
            found = {outcome.unit[0]: outcome.result for outcome in outcomes}
        assert found == {1: 1 + 4 + 9 + 16, 5: 25 + 36 + 49 + 64}

    def test_what_a_unit_raises_comes_back_and_the_pool_lives_on(self, cluster: Cluster) -> None:
        with cluster.pool(PLAN) as pool:
            with pytest.raises(DataError, match=r"^13 is not in the corpus$"):
                pool.submit(13).result()
            with pytest.raises(UnitError, match=r"^unit 14 failed .*ValueError: no such row\n"):
                pool.submit(14).result()
            assert pool.submit(15).result() is None
            assert value(pool, 4) == 16

    def test_results_that_nobody_holds_make_room(self, cluster: Cluster) -> None:
        """Three times the object store passes through, and nothing is spilled."""
        with cluster.pool(PLAN) as pool:
            for unit in range(20, 260):
                assert value(pool, unit) == unit * unit

    def test_a_dead_actor_is_started_anew_and_its_units_are_done_again(self, cluster: Cluster, tmp_path: Path) -> None:
        before = cluster.num_lost  # type: ignore[attr-defined]
        plan = PoolPlan(DiesOnceAt(tmp_path / "note"), 1, Need(0.5), 30.0, 2, name_of)
        with cluster.pool(plan) as pool:
            pending = [pool.submit(unit) for unit in range(6)]
            found = [one.result() for one in pending]
            assert [int(one[0]) for one in found if one is not None] == [*range(6)]
        assert (tmp_path / "note").exists()
        assert cluster.num_lost == before + 1  # type: ignore[attr-defined]

    def test_a_unit_that_kills_its_worker_every_time_is_given_up_by_name(self, cluster: Cluster) -> None:
        with (
            cluster.pool(PLAN) as pool,
            pytest.raises(ClusterError, match=r"^unit 16 lost its worker 2 times"),
        ):
            pool.submit(16).result()

    def test_a_unit_that_hangs_counts_as_lost(self, cluster: Cluster) -> None:
        started = time.monotonic()
        with (
            cluster.pool(replace(PLAN, deadline_seconds=1.0)) as pool,
            pytest.raises(ClusterError, match=r"^unit 17 lost its worker 2 times"),
        ):
            pool.submit(17).result()
        assert time.monotonic() - started < 30

    def test_a_worker_that_cannot_be_made_is_refused_at_once(self, cluster: Cluster) -> None:
        with (
            pytest.raises(DataError, match="checkpoint is missing"),
            cluster.pool(replace(PLAN, make_worker=refuse_to_start)),
        ):
            pytest.fail("the pool opened")

    def test_a_pool_that_no_machine_has_room_for_is_refused(self, cluster: Cluster) -> None:
        with pytest.raises(ClusterError, match="a worker asks for 3 CPUs"), cluster.pool(replace(PLAN, need=Need(3.0))):
            pytest.fail("the pool opened")


@dataclass(frozen=True)
class DiesOnceAt:
    """Makes `DiesOnce`."""

    note: Path

    def __call__(self) -> DiesOnce:
        return DiesOnce(self.note)
