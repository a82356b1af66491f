"""What a cluster offers, and the twin that offers it without Ray, in this process."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from orchestrator.cluster.machines import Machine, Need
from orchestrator.cluster.pools import InProcessPool, Pool, PoolPlan
from orchestrator.cluster.units import Gang, Host, Incident, Judge, Outcome, R, U, Work, Worker
from orchestrator.cluster.watching import watched


class Cluster(ABC):
    """Runs units on workers. `is_joined`: others started it, its machines may be unlike this one, and more may come."""

    is_joined = False
    #: Where people and Prometheus may look on: name -> addresses.
    links: Mapping[str, tuple[str, ...]] = {}

    @property
    @abstractmethod
    def machines(self) -> Sequence[Machine]:
        """What each machine has that is there now; more may join."""

    @property
    def cpus(self) -> float:
        """Of all machines."""
        return sum(machine.cpus for machine in self.machines)

    @property
    def gpus(self) -> float:
        """Of all machines."""
        return sum(machine.gpus for machine in self.machines)

    def run_units(
        self,
        make_worker: Callable[[], Worker[U, R]],
        units: Sequence[U],
        *,
        need: Need,
        workers: int,
        at_once: int | None = None,
        deadline_seconds: float,
        max_attempts: int,
        label: Callable[[U], str],
        fresh_worker: bool = False,
        gang: Gang[U] | None = None,
        on_incident: Callable[[Incident[U]], None] | None = None,
    ) -> Iterator[Outcome[U, R]]:
        """Yield one outcome per unit, in the order of completion.

        At most `workers` workers run at a time, each with what it `need`s; `make_worker` (picklable) is called where
        the worker lives. So many are asked for `at_once` (all); the others while units wait, as many at a time as have
        found room before, so that workers come with machines that join. Those without a unit are let go. A unit that
        runs longer than `deadline_seconds` counts as lost with its worker. With `fresh_worker` every unit has a process
        of its own. `label` names a unit in messages.

        With a `gang`, each of the `workers` is as many processes, each with its `need`, that do a unit together; the
        result is that of rank 0, and when one is lost all are. In process a unit is done by one.

        A unit that raises is given up without another attempt, its traceback goes to the log, and the others are done.
        `on_incident` is told of each attempt that fails, when it does.
        Raises an OrchError of a unit as it is, and UnitError when the first three units that end all raise.
        Raises ClusterError when workers die while they start, or when no machine has room for one.
        """
        assert workers >= 1
        assert max_attempts >= 1
        return self._outcomes(
            Work(
                make_worker,
                units,
                need,
                workers,
                min(workers, at_once or workers),
                deadline_seconds,
                max_attempts,
                label,
                fresh_worker,
                gang,
                on_incident,
            )
        )

    @abstractmethod
    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]: ...

    @abstractmethod
    def pool(self, plan: PoolPlan[U, R]) -> AbstractContextManager[Pool[U, R]]:
        """A pool of workers for the length of the block, the first of which is ready when it begins.

        Raises what making a worker raised; ClusterError when the cluster has no room for the pool.
        """


class InProcess(Cluster):
    """The twin without Ray: one unit after the other in this process; it can lose no worker and knows no deadline."""

    @property
    def machines(self) -> Sequence[Machine]:
        """This one, without its GPUs."""
        return (Machine(float(len(os.sched_getaffinity(0)))),)

    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]:
        host: Host[U, R] = Host()
        judge = Judge(work)
        for number, unit in enumerate(work.units):
            if number == 0 or work.fresh_worker:
                host.start(watched(work.make_worker, work.label)).unwrap(work.worker_name)
            yield judge.outcome(unit, host.run(unit), attempts=1)

    @contextmanager
    def pool(self, plan: PoolPlan[U, R]) -> Iterator[Pool[U, R]]:
        """One worker, made before anything else goes on in this process."""
        yield InProcessPool(replace(plan, make_worker=watched(plan.make_worker, plan.label)))
