"""Keep every actor busy, replace those that die, and try their units again: the rules, without Ray.

Ray's own pool neither resubmits what a dead actor had nor replaces the actor, and its retries know no deadline.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeAlias

from orchestrator import meters
from orchestrator.cluster.units import Judge, Outcome, R, Reply, U, Work
from orchestrator.errors import ClusterError

logger = logging.getLogger(__name__)

Actor: TypeAlias = Hashable
Ref: TypeAlias = Hashable


#: A worker may take so long to come to life, however short the deadline of a unit is: it loads a model, once.
_START_SECONDS = 300.0


class LostWorkerError(Exception):
    """The process of a worker is gone; the text says why."""


class Actors(Protocol[R]):
    """Processes that each hold a `Host` and take their calls in order."""

    def new(self) -> Actor:
        """Ask for an actor; calls to it wait until there is room for it."""

    def call(self, actor: Actor, method: Literal["settle", "start", "run"], argument: object) -> Ref:
        """Call a method of its host; returns at once."""

    def wait(self, refs: list[Ref], timeout_seconds: float | None) -> Ref | None:
        """A call that has ended, well or not; None when the time is over before."""

    def reply(self, ref: Ref) -> Reply[R]:
        """The reply to a call that has ended. Raises LostWorkerError."""

    def end(self, actor: Actor) -> None:
        """Kill the process, if it lives."""


@dataclass(eq=False)
class _Task(Generic[U]):
    """`attempts` counts from when it is sent: whether a unit in line had begun when its worker died, nobody knows.

    `suspect`: it was on a worker that died. A reply may die with the worker before it is sent, so that the unit
    behind it is to blame; from now on it runs with none in line behind or before it, and the next blame is right.
    """

    unit: U
    attempts: int = 0
    suspect: bool = False


@dataclass(eq=False)
class _Call(Generic[U]):
    """A call in flight; `task` is None for the two that bring a worker to life."""

    ref: Ref
    task: _Task[U] | None
    deadline_seconds: float
    started: float = math.inf

    @property
    def ends(self) -> float:
        """When it counts as lost: never while it waits for the call before it."""
        return self.started + self.deadline_seconds

    def begin(self) -> None:
        self.started = time.monotonic()


@dataclass(eq=False)
class _Seat(Generic[U]):
    """An actor and its calls in flight, of which only the first one runs."""

    actor: Actor
    calls: deque[_Call[U]] = field(default_factory=deque)
    has_room: bool = False
    is_ready: bool = False

    @property
    def has_task(self) -> bool:
        return any(call.task is not None for call in self.calls)

    def add(self, call: _Call[U]) -> None:
        self.calls.append(call)
        if len(self.calls) == 1:
            call.begin()

    def finish_first(self) -> _Call[U]:
        call = self.calls.popleft()
        if self.calls:
            self.calls[0].begin()
        return call


class Scheduler(Generic[U, R]):
    """The units of one `run_units` on their way through the actors."""

    def __init__(self, work: Work[U, R], actors: Actors[R]) -> None:
        self._work, self._actors = work, actors
        self._judge = Judge(work)
        self._waiting = deque(_Task(unit) for unit in work.units)
        self._seats: list[_Seat[U]] = []
        self._failed_starts = 0
        self.num_lost = 0

    def outcomes(self) -> Iterator[Outcome[U, R]]:
        """One outcome per unit; every actor is gone when the iteration ends, however it ends."""
        try:
            while num_open := len(self._waiting) + sum(call.task is not None for s in self._seats for call in s.calls):
                self._fill(num_open)
                seat, has_ended = self._next_event()
                try:
                    outcome = self._finish(seat, has_ended)
                except LostWorkerError as lost:
                    outcome = self._lose(seat, str(lost))
                if outcome is not None:
                    yield outcome
        finally:
            while self._seats:
                self._leave(self._seats[-1])

    def _fill(self, num_open: int) -> None:
        self._let_go(len(self._seats) - num_open)
        while len(self._seats) < min(self._wanted(), num_open):
            seat: _Seat[U] = _Seat(self._actors.new())
            # it may wait long for room, so the deadline holds from its first sign of life on
            seat.add(_Call(self._actors.call(seat.actor, "settle", None), None, math.inf))
            start = self._actors.call(seat.actor, "start", self._work.make_worker)
            seat.add(_Call(start, None, max(self._work.deadline_seconds, _START_SECONDS)))
            self._seats.append(seat)
        ready = [seat for seat in self._seats if seat.is_ready]
        for seat in ready:
            if self._waiting and not seat.calls:
                self._submit(seat)
        for seat in ready:
            if self._may_queue(seat):
                self._submit(seat)

    def _wanted(self) -> int:
        """Those that are asked for at once; then as many may wait for room as have found it."""
        have_room = sum(seat.has_room for seat in self._seats)
        return min(self._work.workers, max(self._work.at_once, 2 * have_room))

    def _let_go(self, surplus: int) -> None:
        """End seats that no unit is left for, first of all those that still wait for room."""
        idle = sorted((seat for seat in self._seats if not seat.has_task), key=lambda seat: seat.has_room)
        for seat in idle[: max(0, surplus)]:
            self._leave(seat)

    def _may_queue(self, seat: _Seat[U]) -> bool:
        """A second unit in line hides the way to and fro; near the end it would only wait there.

        It needs an attempt to lose: it dies with the worker, be the one before it to blame or not.
        """
        if self._work.fresh_worker or self._work.max_attempts == 1:
            return False
        if len(seat.calls) != 1 or len(self._waiting) <= len(self._seats):
            return False
        running = seat.calls[0].task
        return running is not None and not running.suspect and not self._waiting[0].suspect

    def _submit(self, seat: _Seat[U]) -> None:
        task = self._waiting.popleft()
        task.attempts += 1
        ref = self._actors.call(seat.actor, "run", task.unit)
        seat.add(_Call(ref, task, self._work.deadline_seconds))

    def _next_event(self) -> tuple[_Seat[U], bool]:
        """The seat whose running call has ended, or (False) has reached its deadline."""
        running = {seat.calls[0].ref: seat for seat in self._seats if seat.calls}
        first = min(running.values(), key=lambda seat: seat.calls[0].ends)
        ends = first.calls[0].ends
        ended = self._actors.wait(list(running), max(0.0, ends - time.monotonic()) if ends < math.inf else None)
        return (first, False) if ended is None else (running[ended], True)

    def _finish(self, seat: _Seat[U], has_ended: bool) -> Outcome[U, R] | None:
        if not has_ended:
            raise LostWorkerError(f"it took longer than {seat.calls[0].deadline_seconds:g} seconds")
        reply = self._actors.reply(seat.calls[0].ref)
        if reply.out_of_memory:
            raise LostWorkerError("it ran out of memory")
        call = seat.finish_first()
        if call.task is None:
            reply.unwrap(self._work.worker_name)
            seat.has_room = True
            if not seat.calls:
                seat.is_ready, self._failed_starts = True, 0
            return None
        if self._work.fresh_worker:
            self._leave(seat)
        return self._judge.outcome(call.task.unit, reply, attempts=call.task.attempts)

    def _lose(self, seat: _Seat[U], reason: str) -> Outcome[U, R] | None:
        """Give the actor up and put its units back; the outcome of the one that ran, if that was its last attempt."""
        self.num_lost += 1
        self._leave(seat)
        running, *queued = seat.calls
        for call in seat.calls:
            if call.task is not None:
                call.task.suspect = True
        self._waiting.extendleft(call.task for call in queued if call.task is not None)
        task, most = running.task, self._work.max_attempts
        if task is None:
            self._failed_starts += 1
            unit = (self._waiting[0] if self._waiting else _Task(self._work.units[0])).unit
            self._work.tell(unit, 0, f"its worker was lost while it started: {reason}", is_final=False)
            logger.warning("%s was lost while it started: %s", self._work.worker_name, reason)
            if self._failed_starts < most:
                return None
            raise ClusterError(
                f"{self._work.worker_name} could not be started, {most} in a row were lost, the last because {reason}; "
                "see the logs of the run for what they printed"
            )
        name = self._work.label(task.unit)
        logger.warning("%s lost its worker (attempt %d of %d): %s", name, task.attempts, most, reason)
        self._work.tell(task.unit, task.attempts, f"it lost its worker: {reason}", is_final=task.attempts >= most)
        if task.attempts < most:
            meters.add("retries", 1)
            self._waiting.append(task)
            return None
        error = f"{name} lost its worker {task.attempts} times, the last time because {reason}"
        return Outcome(task.unit, None, task.attempts, time.monotonic() - running.started, error)

    def _leave(self, seat: _Seat[U]) -> None:
        self._seats.remove(seat)
        self._actors.end(seat.actor)
