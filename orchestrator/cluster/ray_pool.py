"""A pool of Ray actors: results come through the object store, dead actors are started anew, their units done again."""

from __future__ import annotations

import faulthandler
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Generic

from orchestrator.cluster.placing import Places, actor_options
from orchestrator.cluster.pools import Pending, Pool, PoolPlan
from orchestrator.cluster.units import Host, R, Reply, Surroundings, U, Worker
from orchestrator.errors import ClusterError

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

logger = logging.getLogger(__name__)

#: How long the end of a pool waits to hear which actors were started anew.
_GOODBYE_SECONDS = 1.0


class _PoolHost(Generic[U, R]):
    """Lives in the actor. A unit that takes longer than the deadline ends the process, which then counts as lost."""

    def __init__(
        self,
        make_worker: Callable[[], Worker[U, R]],
        surroundings: Surroundings,
        deadline_seconds: float,
    ) -> None:
        self._host: Host[U, R] = Host()
        self._deadline_seconds = deadline_seconds
        settled = self._host.settle(surroundings)
        self._start = settled if settled.error is not None else self._host.start(make_worker)

    def start(self) -> Reply[None]:
        """How making the worker went."""
        return self._start

    def run(self, unit: U) -> Reply[R]:
        """Do one unit."""
        if self._start.error is not None or self._start.failure is not None:
            return Reply(None, error=self._start.error, failure=self._start.failure, trace=self._start.trace)
        faulthandler.dump_traceback_later(self._deadline_seconds, exit=True)  # a thread that needs no Python to act
        try:
            return self._host.run(unit)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def was_restarted(self) -> bool:
        """Whether this process took the place of one that died."""
        import ray

        return bool(ray.get_runtime_context().was_current_actor_reconstructed)


class RayPool(Pool[U, R]):
    """Gives a unit to the actor that has the fewest of those that were asked for here."""

    def __init__(self, actors: list[ActorHandle], label: Callable[[U], str], max_attempts: int) -> None:
        self._actors, self._label, self._max_attempts = actors, label, max_attempts
        self._lines: list[weakref.WeakSet[_RayPending[U, R]]] = [weakref.WeakSet() for _ in actors]
        self._next = os.getpid()  # whoever holds a handle begins elsewhere

    def __reduce__(self) -> tuple[type[RayPool[U, R]], tuple[list[ActorHandle], Callable[[U], str], int]]:
        """What travels: the actors, and not what was asked of them here."""
        return type(self), (self._actors, self._label, self._max_attempts)

    def submit(self, unit: U) -> Pending[R]:
        """Send it to an actor."""
        self._next += 1
        turns = [(self._next + turn) % len(self._actors) for turn in range(len(self._actors))]
        seat = min(turns, key=lambda at: sum(not pending.is_done() for pending in self._lines[at]))
        ref = self._actors[seat].run.remote(unit)
        pending: _RayPending[U, R] = _RayPending(ref, self._label(unit), self._max_attempts)
        self._lines[seat].add(pending)
        return pending

    def num_restarted(self) -> int:
        """How many of the actors that answer soon took the place of one that died."""
        import ray

        if not ray.is_initialized():
            return 0
        ended, _ = ray.wait(
            refs := [actor.was_restarted.remote() for actor in self._actors],
            num_returns=len(self._actors),
            timeout=_GOODBYE_SECONDS,
        )
        del refs
        restarted = 0
        for ref in ended:
            with suppress(ray.exceptions.RayError):
                restarted += bool(ray.get(ref))
        return restarted


class _RayPending(Pending[R], Generic[U, R]):
    def __init__(self, ref: ObjectRef, name: str, max_attempts: int) -> None:
        self._ref, self._name, self._max_attempts = ref, name, max_attempts

    def is_done(self) -> bool:
        """Whether the result is there."""
        import ray

        ended, _ = ray.wait([self._ref], timeout=0, fetch_local=False)
        return bool(ended)

    def result(self) -> R | None:
        """Arrays in it are views of the object store."""
        import ray

        try:
            reply: Reply[R] = ray.get(self._ref)
        except ray.exceptions.RayTaskError as error:  # what the worker raises comes as a reply
            reply = Reply(None, failure=f"its call or its reply cannot be sent ({error.cause})", trace=str(error))
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"{self._name} lost its worker {self._max_attempts} times; see the logs of the run for what it printed"
            ) from error
        return reply.unwrap(self._name)


@contextmanager
def open_ray_pool(plan: PoolPlan[U, R], places: Places, surroundings: Surroundings) -> Iterator[RayPool[U, R]]:
    """Actors for the length of the block; those that find no room yet come when there is some."""
    import ray

    options = actor_options(plan.need) | {
        "max_restarts": -1,
        "max_task_retries": plan.max_attempts - 1,  # so that a unit that kills its worker ends the run
    }
    make = ray.remote(_PoolHost)
    arguments = (plan.make_worker, surroundings, plan.deadline_seconds)
    actors = [
        make.options(**options, scheduling_strategy=places.take(number)).remote(*arguments)
        for number in range(plan.size)
    ]
    try:
        started, _ = ray.wait([actor.start.remote() for actor in actors], num_returns=1)
        try:
            reply: Reply[None] = ray.get(started[0])
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"{plan.worker_name} could not be started ({type(error).__name__}); see the logs of the run for what "
                "it printed"
            ) from error
        reply.unwrap(plan.worker_name)
        yield RayPool(actors, plan.label, plan.max_attempts)
    finally:
        for actor in actors:
            if ray.is_initialized():  # else ray.kill would start a Ray of its own
                ray.kill(actor)
