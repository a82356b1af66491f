"""The scheduler's view of Ray: actors, and gangs of actors that count as one."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal

from orchestrator.cluster.machines import Need
from orchestrator.cluster.placing import Places, actor_options, ask_for_room, place_in
from orchestrator.cluster.scheduler import Actor, LostWorkerError, Ref
from orchestrator.cluster.units import Gang, Host, R, Reply, Surroundings, U, Work

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

#: When one of a gang fails the others soon say so too, and a lost process explains more than a lost connection.
_LAST_WORDS_SECONDS = 5.0


class RayActors(Generic[R]):
    """Each worker is one actor."""

    def __init__(self, need: Need, places: Places, surroundings: Surroundings) -> None:
        import ray

        self._class, self._options = ray.remote(Host), actor_options(need)
        self._places, self._surroundings = places, surroundings
        self._num_made = 0

    def new(self) -> _Actor:
        self._num_made += 1
        place = self._places.take(self._num_made)
        return _Actor(self._num_made, self._class.options(**self._options, scheduling_strategy=place).remote())

    def call(self, actor: Actor, method: Literal["settle", "start", "run"], argument: object) -> ObjectRef:
        assert isinstance(actor, _Actor)
        if method == "settle":
            argument = self._surroundings
        return getattr(actor.handle, method).remote(argument)

    def wait(self, refs: list[ObjectRef], timeout_seconds: float | None) -> ObjectRef | None:
        import ray

        ended, _ = ray.wait(refs, num_returns=1, timeout=timeout_seconds)
        return ended[0] if ended else None

    def reply(self, ref: ObjectRef) -> Reply[R]:
        return _reply(ref)

    def end(self, actor: Actor) -> None:
        import ray

        assert isinstance(actor, _Actor)
        self._places.give_back(actor.number)
        if ray.is_initialized():  # else ray.kill would start a Ray of its own
            ray.kill(actor.handle)


@dataclass(frozen=True, eq=False)
class _Actor:
    """An actor, and its number among those that were made."""

    number: int
    handle: ActorHandle


class GangHost(Host[U, R]):
    """One of a gang, where it lives."""

    def meeting_place(self) -> str:
        """HOST:PORT of this machine, where the others can meet this one."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def run_seated(self, unit: U, gang: Gang[U], rank: int, address: str) -> Reply[R]:
        """Do one unit with the others."""
        return self.run(gang.seated(unit, rank, gang.size, address))


@dataclass(eq=False)
class _Actors:
    """The actors of a gang, by rank, and the room that is kept for them."""

    room: PlacementGroup
    actors: list[ActorHandle]


@dataclass(eq=False)
class _Calls(Generic[R]):
    """A call of all of a gang: ended when all have replied, or one has failed."""

    refs: list[ObjectRef]
    replies: dict[ObjectRef, Reply[R]] = field(default_factory=dict)
    lost: LostWorkerError | None = None

    @property
    def open(self) -> list[ObjectRef]:
        return [ref for ref in self.refs if ref not in self.replies]

    @property
    def failed(self) -> Reply[R] | None:
        return next((reply for reply in self.replies.values() if reply.error or reply.failure), None)

    @property
    def has_ended(self) -> bool:
        return self.lost is not None or self.failed is not None or not self.open

    def take(self, ref: ObjectRef) -> None:
        try:
            self.replies[ref] = _reply(ref)
        except LostWorkerError as lost:
            self.lost = lost


class RayGangs(Generic[U, R]):
    """Each worker is a gang: as many actors in one placement group, near one another, that come and go together."""

    def __init__(self, work: Work[U, R], gang: Gang[U], surroundings: Surroundings) -> None:
        import ray

        self._need, self._gang, self._surroundings = work.need, gang, surroundings
        self._class, self._options = ray.remote(GangHost), actor_options(work.need)

    def new(self) -> _Actors:
        room = ask_for_room(self._need, self._gang.size)
        places = [place_in(room, rank) for rank in range(self._gang.size)]
        return _Actors(
            room, [self._class.options(**self._options, scheduling_strategy=place).remote() for place in places]
        )

    def call(self, actor: Actor, method: Literal["settle", "start", "run"], argument: object) -> _Calls[R]:
        assert isinstance(actor, _Actors)
        if method == "run":
            address = actor.actors[0].meeting_place.remote()
            return _Calls(
                [one.run_seated.remote(argument, self._gang, rank, address) for rank, one in enumerate(actor.actors)]
            )
        if method == "settle":
            argument = self._surroundings
        return _Calls([getattr(one, method).remote(argument) for one in actor.actors])

    def wait(self, refs: list[Ref], timeout_seconds: float | None) -> Ref | None:
        import ray

        ends = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        everything = [calls for calls in refs if isinstance(calls, _Calls)]
        while True:
            for calls in everything:
                if calls.has_ended:
                    return calls
            owners: Mapping[ObjectRef, _Calls[R]] = {ref: calls for calls in everything for ref in calls.open}
            left = None if ends is None else max(0.0, ends - time.monotonic())
            ended, _ = ray.wait(list(owners), num_returns=1, timeout=left)
            if not ended:
                return None
            owners[ended[0]].take(ended[0])

    def reply(self, ref: Ref) -> Reply[R]:
        import ray

        assert isinstance(ref, _Calls)
        if ref.lost is None and ref.failed is not None and ref.open:
            ended, _ = ray.wait(ref.open, num_returns=len(ref.open), timeout=_LAST_WORDS_SECONDS)
            for one in ended:
                ref.take(one)
        if ref.lost is not None:
            raise ref.lost
        return ref.failed or ref.replies[ref.refs[0]]

    def end(self, actor: Actor) -> None:
        import ray

        assert isinstance(actor, _Actors)
        if ray.is_initialized():
            for one in actor.actors:
                ray.kill(one)
            ray.util.remove_placement_group(actor.room)


def _reply(ref: ObjectRef) -> Reply[R]:
    """The reply to a call that has ended. Raises LostWorkerError."""
    import ray

    try:
        reply: Reply[R] = ray.get(ref)
    except ray.exceptions.RayTaskError as error:  # what the worker raises comes as a reply, so this is the way to it
        return Reply(None, failure=f"its call or its reply cannot be sent ({error.cause})", trace=str(error))
    except ray.exceptions.OutOfMemoryError as error:
        raise LostWorkerError("its machine ran out of memory") from error
    except ray.exceptions.RayError as error:
        raise LostWorkerError("its process or machine died") from error
    return reply
