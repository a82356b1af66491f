"""A cluster for those who only look at its machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.cluster import Cluster, Machine, Outcome, Pool, PoolPlan
from orchestrator.cluster.units import R, U, Work


class Pretended(Cluster):
    """Machines that nothing runs on."""

    def __init__(self, *machines: Machine, is_joined: bool = False) -> None:
        self._machines, self.is_joined = machines, is_joined

    @property
    def machines(self) -> tuple[Machine, ...]:
        return self._machines

    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]:
        raise NotImplementedError

    @contextmanager
    def pool(self, plan: PoolPlan[U, R]) -> Iterator[Pool[U, R]]:
        raise NotImplementedError
        yield
