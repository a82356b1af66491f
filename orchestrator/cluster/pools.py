"""A pool of workers that answer whoever holds its handle, for as long as it is open; and its twin in this process.

Unlike the units of `Cluster.run_units`, which are all known before, these are asked for one after the other, by other
workers too, and their results travel. Nothing more is done than is asked for, so that who asks bounds what is held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from orchestrator.cluster.machines import Need
from orchestrator.cluster.units import Host, R, U, Worker


@dataclass(frozen=True)
class PoolPlan(Generic[U, R]):
    """The arguments of `Cluster.pool`."""

    make_worker: Callable[[], Worker[U, R]]
    size: int
    need: Need
    deadline_seconds: float
    max_attempts: int
    label: Callable[[U], str]
    on_restart: Callable[[], None] | None = None  # called (and picklable) where a worker takes the place of a lost one

    @property
    def worker_name(self) -> str:
        """How messages call a worker that has no unit yet."""
        return "a worker of the pool"


class Pending(ABC, Generic[R]):
    """A unit that was asked for; its result lives as long as this or the result is held."""

    @abstractmethod
    def result(self) -> R | None:
        """Wait for what the worker gave; the same each time.

        Raises what the unit raised: an OrchError as it is, anything else as a UnitError whose note is the traceback.
        Raises ClusterError when the unit lost its worker too often.
        """


class Pool(ABC, Generic[U, R]):
    """The handle; it can be sent to workers of the cluster that opened it."""

    @abstractmethod
    def submit(self, unit: U) -> Pending[R]:
        """Ask for a unit; returns at once."""


class InProcessPool(Pool[U, R]):
    """One worker in this process, made at once; a unit is done where and when its result is waited for."""

    def __init__(self, plan: PoolPlan[U, R]) -> None:
        self._label = plan.label
        self._host: Host[U, R] = Host()
        self._host.start(plan.make_worker).unwrap(plan.worker_name)

    def submit(self, unit: U) -> Pending[R]:
        """Note the unit down."""
        return _Lazy(lambda: self._host.run(unit).unwrap(self._label(unit)))


class _Lazy(Pending[R]):
    def __init__(self, compute: Callable[[], R | None]) -> None:
        self._compute = compute
        self._result: R | None = None
        self._is_done = False

    def result(self) -> R | None:
        """Compute it the first time."""
        if not self._is_done:
            self._result, self._is_done = self._compute(), True
        return self._result
