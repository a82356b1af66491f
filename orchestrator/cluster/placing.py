"""Where on a Ray cluster actors go: into a placement group, packed or spread, and those that come later beside it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.cluster.machines import Need

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    Strategy: TypeAlias = PlacementGroupSchedulingStrategy | str

logger = logging.getLogger(__name__)

#: A placement group is granted whole or not at all; who waits longer than this for all takes what there is for one.
_GRANT_SECONDS = 10.0


def actor_options(need: Need) -> dict[str, object]:
    """What an actor asks of Ray. It is never started anew by Ray itself, unless that is asked for beside."""
    return {
        "num_cpus": need.cpus,
        "num_gpus": need.gpus,
        "resources": dict(need.resources),
        "max_restarts": 0,
        "max_task_retries": 0,
    }


def ask_for_room(need: Need, count: int) -> PlacementGroup:
    """A placement group of `count` bundles, granted when there is room for all."""
    from ray.util.placement_group import placement_group

    bundle = {"CPU": need.cpus, "GPU": need.gpus, **need.resources}
    bundle = {name: amount for name, amount in bundle.items() if amount}
    return placement_group([bundle] * count, strategy="SPREAD" if need.spread else "PACK")


def place_in(group: PlacementGroup, bundle: int) -> PlacementGroupSchedulingStrategy:
    """For an actor that takes one of the bundles."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(group, bundle)


class Places:
    """A placement group for the `count` actors that are asked for at once; the others go where Ray finds room.

    None is made where there is but one machine or actor, nor when others hold so much of the cluster that it is not
    granted soon.
    """

    def __init__(self, need: Need, count: int, *, num_machines: int) -> None:
        self._elsewhere = "SPREAD" if need.spread else "DEFAULT"
        self._group: PlacementGroup | None = None
        self._free: list[int] = []
        self._taken: dict[object, int] = {}
        if count <= 1 or num_machines == 1:
            return
        group = ask_for_room(need, count)
        if group.wait(_GRANT_SECONDS):
            self._group, self._free = group, [*range(count)]
        else:
            logger.info("there is no room yet for %d workers with %s at once; they come one by one", count, need)
            self._remove(group)

    def take(self, name: object) -> Strategy:
        """A place for the actor that is called `name` here."""
        if self._group is None or not self._free:
            return self._elsewhere
        self._taken[name] = self._free.pop(0)
        return place_in(self._group, self._taken[name])

    def give_back(self, name: object) -> None:
        """The actor is gone, and another one may have its place."""
        bundle = self._taken.pop(name, None)
        if bundle is not None:
            self._free.append(bundle)

    def close(self) -> None:
        """Give the room back."""
        if self._group is not None:
            self._remove(self._group)

    @staticmethod
    def _remove(group: PlacementGroup) -> None:
        import ray

        if ray.is_initialized():
            ray.util.remove_placement_group(group)
