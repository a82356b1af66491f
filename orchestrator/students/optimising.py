"""AdamW, its learning rate, and how gradients are clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from orchestrator.config.phases import PhaseSpec
from orchestrator.config.run import TrainingSection
from orchestrator.students.group import Parts


def learning_rate(step: int, training: TrainingSection, phase: PhaseSpec) -> float:
    """Linear warm-up over `warmup_share` of the steps, then the chosen decay; a function of the step alone.

    The steps are those of the whole training, or of `phase` when it has a rate of its own.
    """
    peak, steps = training.learning_rate, training.steps
    if phase.learning_rate is not None:
        peak, steps, step = phase.learning_rate, phase.num_steps, phase.step_within(step)
    warmup = max(1, round(training.warmup_share * steps))
    if step <= warmup:
        return peak * step / warmup
    share = (step - warmup) / max(1, steps - warmup)
    match training.decay:
        case "linear":
            return peak * (1.0 - share)
        case "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * share))
        case "constant":
            return peak


def make_optimiser(parameters: Iterable[Parameter], training: TrainingSection) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019); biases and norms are not decayed."""
    everything = list(parameters)
    decayed = [parameter for parameter in everything if parameter.ndim > 1]
    plain = [parameter for parameter in everything if parameter.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=training.betas,
        fused=True,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def clip_gradients(parts: Parts, *, max_norm: float) -> dict[str, Tensor]:
    """Scale gradients down to `max_norm`, each part by its own norm; student -> norm over all that it trains, before.

    One norm over the group would let a student slow down another with which it shares nothing. Parameters without a
    gradient, as those that are frozen, count for nothing.
    """
    norms = {users: _clip(list(parameters.values()), max_norm) for users, parameters in parts.items()}
    students = dict.fromkeys(student for users in parts for student in users)
    return {
        student: torch.linalg.vector_norm(torch.stack([norm for users, norm in norms.items() if student in users]))
        for student in students
    }


def _clip(parameters: list[Parameter], max_norm: float) -> Tensor:
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    return norm.to(parameters[0].device)  # it is on the CPU where there is no gradient at all
