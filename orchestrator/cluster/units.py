"""Units of work, the workers that do them, and what becomes of them; without Ray, and so the in-process twin too.

A unit is a pure function of its specification with a durable result, so that running it twice does no harm. A lost
worker is replaced and its unit tried again, a bounded number of times; an exception of the unit itself ends the run.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from orchestrator.errors import OrchError, UnitError

U = TypeVar("U")
R = TypeVar("R")
U_contra = TypeVar("U_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Worker(Protocol[U_contra, R_co]):
    """What `make_worker` makes: it keeps what is expensive to load, and does one unit after the other."""

    def run(self, unit: U_contra, /) -> R_co: ...


@dataclass(frozen=True)
class Outcome(Generic[U, R]):
    """What became of a unit. `error`, half a sentence, is set when it lost its worker `attempts` times."""

    unit: U
    result: R | None
    attempts: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Work(Generic[U, R]):
    """The arguments of `Cluster.run_units`."""

    make_worker: Callable[[], Worker[U, R]]
    units: Sequence[U]
    workers: int
    cpus: float
    gpus: float
    deadline_seconds: float
    max_attempts: int
    label: Callable[[U], str]
    fresh_worker: bool

    @property
    def worker_name(self) -> str:
        """How messages call a worker that has no unit yet."""
        return f"a worker for {self.label(self.units[0])}"


class Cluster(ABC):
    """Runs units on workers; `cpus` and `gpus` are what there is in all."""

    cpus: float
    gpus: float

    def run_units(
        self,
        make_worker: Callable[[], Worker[U, R]],
        units: Sequence[U],
        *,
        workers: int,
        cpus: float,
        gpus: float,
        deadline_seconds: float,
        max_attempts: int,
        label: Callable[[U], str],
        fresh_worker: bool = False,
    ) -> Iterator[Outcome[U, R]]:
        """Yield one outcome per unit, in the order of completion.

        At most `workers` workers run at a time, each with `cpus` and `gpus`; `make_worker` (picklable) is called where
        the worker lives. A unit that runs longer than `deadline_seconds` counts as lost with its worker. With
        `fresh_worker` every unit has a process of its own. `label` names a unit in messages.

        Raises what a unit raised: an OrchError as it is, anything else as a UnitError whose note is the traceback.
        Raises ClusterError when workers die while they start, or when no machine has room for one.
        """
        assert workers >= 1
        assert max_attempts >= 1
        return self._outcomes(
            Work(make_worker, units, workers, cpus, gpus, deadline_seconds, max_attempts, label, fresh_worker)
        )

    @abstractmethod
    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]: ...


class InProcess(Cluster):
    """The twin without Ray: one unit after the other in this process; it can lose no worker and knows no deadline."""

    def __init__(self) -> None:
        self.cpus = float(len(os.sched_getaffinity(0)))
        self.gpus = 0.0

    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]:
        host: Host[U, R] = Host()
        for number, unit in enumerate(work.units):
            if number == 0 or work.fresh_worker:
                host.start(work.make_worker).unwrap(work.worker_name)
            reply = host.run(unit)
            yield Outcome(unit, reply.unwrap(work.label(unit)), 1, reply.seconds)


@dataclass(frozen=True)
class Reply(Generic[R]):
    """What a call of a worker gave, or how it failed; travels between processes."""

    result: R | None
    seconds: float = 0.0
    error: OrchError | None = None
    failure: str | None = None
    trace: str = ""

    def unwrap(self, name: str) -> R | None:
        """The result; raises what the call raised, where `name` is what was done."""
        if self.error is not None:
            raise self.error
        if self.failure is not None:
            error = UnitError(
                f"{name} failed and was not tried again, since it would fail the same way: {self.failure}"
            )
            error.add_note(self.trace)
            raise error
        return self.result


class Host(Generic[U, R]):
    """Lives where the worker lives; makes it, runs its units, and turns what they raise into replies."""

    def __init__(self) -> None:
        self._worker: Worker[U, R] | None = None

    def settle(self, environment: Mapping[str, str | None]) -> Reply[None]:
        """The first call of an actor, which is alive then: leave Ctrl-C to the driver, and set variables."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        set_environment(environment)
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
        failure = traceback.format_exception_only(error)[-1].strip()
        return Reply(None, time.monotonic() - started, failure=failure, trace=traceback.format_exc())
