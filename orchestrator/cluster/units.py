"""Units of work, the workers that do them, and what becomes of them; without Ray.

A unit is a pure function of its specification with a durable result, so that running it twice does no harm. A lost
worker is replaced and its unit tried again, a bounded number of times. A unit that raises is given up at once, for it
would raise again; an OrchError, which a person has to mend, ends the run.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from orchestrator.cluster.machines import Need
from orchestrator.credentials import without_credentials
from orchestrator.errors import ClusterError, OrchError, UnitError

logger = logging.getLogger(__name__)

#: As many units fail before any is done, and it is the code or all of the data that is wrong.
_FAILURES_THAT_TELL = 3

U = TypeVar("U")
R = TypeVar("R")
U_contra = TypeVar("U_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Worker(Protocol[U_contra, R_co]):
    """What `make_worker` makes: it keeps what is expensive to load, and does one unit after the other."""

    def run(self, unit: U_contra, /) -> R_co: ...


@dataclass(frozen=True)
class Outcome(Generic[U, R]):
    """What became of a unit. `error`, half a sentence, is set when it was given up: it raised, or it lost its worker
    `attempts` times, of which it may not have begun in one, when it was the next in line there."""

    unit: U
    result: R | None
    attempts: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Incident(Generic[U]):
    """An attempt at a unit that failed; `is_final` when there is no other. `error` is half a sentence."""

    unit: U
    attempt: int
    error: str
    is_final: bool


@dataclass(frozen=True)
class Gang(Generic[U]):
    """`size` workers that do each unit together, as ranks 0 … size − 1 that meet at an address HOST:PORT.

    `seated` (picklable) gives the unit as one of them is told it: (unit, rank, size, address).
    """

    size: int
    seated: Callable[[U, int, int, str], U]


@dataclass(frozen=True)
class Work(Generic[U, R]):
    """The arguments of `Cluster.run_units`."""

    make_worker: Callable[[], Worker[U, R]]
    units: Sequence[U]
    need: Need
    workers: int
    at_once: int
    deadline_seconds: float
    max_attempts: int
    label: Callable[[U], str]
    fresh_worker: bool
    gang: Gang[U] | None = None
    on_incident: Callable[[Incident[U]], None] | None = None

    def tell(self, unit: U, attempt: int, error: str, *, is_final: bool) -> None:
        """Let who asked for the units know that an attempt failed."""
        if self.on_incident is not None:
            self.on_incident(Incident(unit, attempt, error.strip(), is_final))

    @property
    def worker_name(self) -> str:
        """How messages call a worker that has no unit yet."""
        return f"a worker for {self.label(self.units[0])}"


@dataclass(frozen=True)
class Reply(Generic[R]):
    """What a call of a worker gave, or how it failed; travels between processes.

    `out_of_memory`: the failure is one of this process, where what was loaded before may be in the way.
    """

    result: R | None
    seconds: float = 0.0
    error: OrchError | None = None
    failure: str | None = None
    trace: str = ""
    out_of_memory: bool = False

    def unwrap(self, name: str) -> R | None:
        """The result; raises what the call raised, where `name` is what was done."""
        if self.error is not None:
            raise self.error
        if self.failure is not None:
            error = UnitError(self.complaint(name))
            error.add_note(self.trace)
            raise error
        return self.result

    def complaint(self, name: str) -> str:
        """That `name` failed, and how; half a sentence."""
        return f"{name} failed and was not tried again, since it would fail the same way: {self.failure}"


class Judge(Generic[U, R]):
    """Turns replies to units into outcomes, and tells one bad unit from bad code: by whether any other was done."""

    def __init__(self, work: Work[U, R]) -> None:
        self._work = work
        self._num_failed = 0
        self._any_done = False

    def outcome(self, unit: U, reply: Reply[R], *, attempts: int) -> Outcome[U, R]:
        """The outcome of a unit that has ended.

        Raises:
            OrchError: what the unit raised for a person to mend.
            UnitError: this unit raised, and so did all before it.
        """
        name = self._work.label(unit)
        if reply.error is not None:
            self._work.tell(unit, attempts, str(reply.error), is_final=True)
        if reply.failure is None:
            result = reply.unwrap(name)
            self._any_done = True
            return Outcome(unit, result, attempts, reply.seconds)
        self._num_failed += 1
        self._work.tell(unit, attempts, reply.failure, is_final=True)
        if not self._any_done and self._num_failed >= _FAILURES_THAT_TELL:
            error = UnitError(
                f"{reply.complaint(name).rstrip()}. The first {self._num_failed} units all failed, so the rest was not "
                "begun."
            )
            error.add_note(reply.trace)
            raise error
        logger.warning("%s", reply.complaint(name))
        logger.info("%s", reply.trace)
        return Outcome(unit, None, attempts, reply.seconds, reply.complaint(name))


@dataclass(frozen=True)
class Surroundings:
    """What a worker has in common with its driver: variables, and the folder that relative paths start from.

    `folder` None: the one that it finds itself in.
    """

    environment: Mapping[str, str | None]
    folder: str | None


class Host(Generic[U, R]):
    """Lives where the worker lives; makes it, runs its units, and turns what they raise into replies."""

    def __init__(self) -> None:
        self._worker: Worker[U, R] | None = None

    def settle(self, surroundings: Surroundings) -> Reply[None]:
        """The first call of an actor, which is alive then: leave Ctrl-C to the driver, and share its surroundings."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        set_environment(surroundings.environment)
        try:
            if surroundings.folder is not None:
                os.chdir(surroundings.folder)
        except OSError as error:
            return Reply(
                None,
                error=ClusterError(
                    f"Machine {socket.gethostname()} cannot work in {surroundings.folder}, where orch was "
                    f"called ({error.strerror}); call orch in a folder that all machines share"
                ),
            )
        return Reply(None)

    def start(self, make_worker: Callable[[], Worker[U, R]]) -> Reply[None]:
        """Make the worker, after letting go of the one before."""

        def start() -> None:
            self._worker = None
            self._worker = make_worker()

        return _attempt(start)

    def run(self, unit: U) -> Reply[R]:
        """Do one unit."""
        worker = self._worker
        assert worker is not None
        return _attempt(lambda: worker.run(unit))


def set_environment(variables: Mapping[str, str | None]) -> None:
    """Set each variable of this process, or remove it where None."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _attempt(call: Callable[[], R]) -> Reply[R]:
    started = time.monotonic()
    try:
        return Reply(call(), time.monotonic() - started)
    except OrchError as error:
        return Reply(None, time.monotonic() - started, error=error)
    except Exception as error:
        failure = without_credentials(traceback.format_exception_only(error)[-1].strip())
        exhausted = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's name for it
        seconds = time.monotonic() - started
        trace = without_credentials(traceback.format_exc())
        return Reply(None, seconds, failure=failure, trace=trace, out_of_memory=exhausted)
