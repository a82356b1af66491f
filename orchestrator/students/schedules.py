"""The weight of an objective at a step: a number, or one that follows a schedule."""

from __future__ import annotations

import math

from orchestrator.config.objectives import RampSection, Weight, WindowSection


def weight_at(weight: Weight, *, step: int, steps: int) -> float:
    """The weight at `step`, counted from 1, of a phase that is `steps` long; a function of these alone.

    A ramp is `start` up to its first step and `end` from its last; where the two are one step, it jumps there.
    """
    match weight:
        case WindowSection():
            last = steps if weight.last_step is None else weight.last_step
            return weight.value if weight.first_step <= step <= last else 0.0
        case RampSection():
            first, last = weight.first_step, steps if weight.last_step is None else weight.last_step
            if not first < step < last:
                return weight.end if step >= last else weight.start
            share = (step - first) / (last - first)
            if weight.schedule == "cosine":
                share = 0.5 * (1.0 - math.cos(math.pi * share))
            return weight.start + share * (weight.end - weight.start)
        case _:
            return weight
