"""What workers take of machines, and how many of them fit; arithmetic alone, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Need:
    """What one worker takes of its machine, and how several are laid out.

    `gpus` below 1 is a part of one GPU, which several workers share. `resources` are names that the cluster's machines
    were started with. Workers are packed onto few machines, or with `spread` put on as many as there are.
    """

    cpus: float
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    spread: bool = False

    def __str__(self) -> str:
        return _listed(self.cpus, self.gpus, self.resources)

    def times(self, count: int) -> Need:
        """What `count` such workers take together."""
        resources = {name: count * amount for name, amount in self.resources.items()}
        return replace(self, cpus=count * self.cpus, gpus=count * self.gpus, resources=resources)


@dataclass(frozen=True)
class Machine:
    """What a machine of the cluster has, in all; `object_store_bytes` None: it has no object store."""

    cpus: float
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    object_store_bytes: int | None = None

    def __str__(self) -> str:
        return _listed(self.cpus, self.gpus, self.resources)

    def fits(self, need: Need) -> int:
        """How many workers the empty machine has room for."""
        counts = [floor(self.cpus / need.cpus + _ROUNDING)] if need.cpus else []
        if need.gpus:
            counts.append(_fitting_gpus(self.gpus, need.gpus))
        counts += [floor(self.resources.get(name, 0.0) / amount) for name, amount in need.resources.items() if amount]
        return max(0, min(counts, default=0))

    def without(self, need: Need, count: int) -> Machine:
        """What is left when `count` workers are on it."""
        taken = need.times(count)
        resources = {name: amount - taken.resources.get(name, 0.0) for name, amount in self.resources.items()}
        return replace(self, cpus=self.cpus - taken.cpus, gpus=self.gpus - taken.gpus, resources=resources)


def room(machines: Sequence[Machine], need: Need) -> int:
    """How many workers the empty machines have room for."""
    return sum(machine.fits(need) for machine in machines)


def without(machines: Sequence[Machine], need: Need, count: int) -> tuple[Machine, ...]:
    """What is left when as many of `count` workers as fit are placed, machine by machine."""
    left = []
    for machine in machines:
        placed = min(count, machine.fits(need))
        count -= placed
        left.append(machine.without(need, placed))
    return tuple(left)


def even_cpus(machines: Sequence[Machine], count: int) -> float:
    """The most whole CPUs that each of `count` workers can have while all of them run at once.

    1, or what the largest machine has, where they cannot all run at once.
    """
    shares = sorted({machine.cpus // part for machine in machines for part in range(1, count + 1)}, reverse=True)
    for share in shares:
        if share >= 1 and room(machines, Need(share)) >= count:
            return share
    return min(1.0, max((machine.cpus for machine in machines), default=0.0))


def even_gpus(machines: Sequence[Machine], count: int) -> float:
    """A GPU for each of `count` workers, or the part of one that each can have while all of them run at once."""
    total = sum(floor(machine.gpus + _ROUNDING) for machine in machines)
    if total:
        return 1.0 if total >= count else 1.0 / ceil(count / total)
    parts = [machine.gpus for machine in machines if machine.gpus > _ROUNDING]
    return min(parts) / ceil(count / len(parts)) if parts else 0.0


def _fitting_gpus(has: float, gpus: float) -> int:
    if gpus >= 1:
        return floor(has / gpus + _ROUNDING)
    whole = floor(has + _ROUNDING)  # a part of a GPU lies on one GPU
    return whole * floor(1 / gpus + _ROUNDING) + floor((has - whole) / gpus + _ROUNDING)


def _listed(cpus: float, gpus: float, resources: Mapping[str, float]) -> str:
    named = "".join(f", {amount:g} {name}" for name, amount in resources.items())
    return f"{cpus:g} CPUs and {gpus:g} GPUs{named}"
