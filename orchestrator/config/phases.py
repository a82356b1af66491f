"""Phases of training written out for one student: from which step to which, what for, and what is frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.config.base import nearest
from orchestrator.config.objectives import (
    HiddenStatesObjective,
    MatchedObjective,
    Objective,
    RampSection,
    WindowSection,
)
from orchestrator.config.run import PhaseSection, TrainingSection
from orchestrator.errors import ConfigError

#: The phase of a training without `phases`.
WHOLE = "all"


@dataclass(frozen=True)
class PhaseSpec:
    """One stage of one student's training; steps are counted from 1 over the whole training, both ends included."""

    name: str
    first_step: int
    last_step: int
    objectives: tuple[Objective, ...]
    freeze: tuple[str, ...] = ()  # embedding, layer-1 …, head; never `layers`
    learning_rate: float | None = None  # the peak of a schedule of its own, over the phase
    layers: tuple[int, ...] | None = None  # student layers, 0 the embedding, that objectives with a map match; None all

    @property
    def num_steps(self) -> int:
        """How long the phase is."""
        return self.last_step - self.first_step + 1

    def step_within(self, step: int) -> int:
        """A step of the training, counted from the phase's beginning."""
        return step - self.first_step + 1


def phase_at(phases: Sequence[PhaseSpec], step: int) -> int:
    """The index of the phase that a step belongs to."""
    return next(index for index, phase in enumerate(phases) if step <= phase.last_step)


def whole_training(objectives: Sequence[Objective], training: TrainingSection) -> PhaseSpec:
    """The one phase of a training without `phases`, where nothing is frozen."""
    return PhaseSpec(WHOLE, 1, training.steps, tuple(objectives))


def make_phases(
    sections: Sequence[PhaseSection], training: TrainingSection, *, objectives: Sequence[Objective], student_layers: int
) -> tuple[PhaseSpec, ...]:
    """The phases of a student of that many layers, one after the other over `training.steps`.

    A phase with `progress` becomes one phase per student layer, `name-1`, `name-2`, …, each with schedules of its own;
    the embedding goes with layer 1. What `training.freeze` names is frozen in all of them.

    Args:
        sections: as configured; empty for one phase over the whole training.
        training: how many steps there are, and what is frozen throughout.
        objectives: of the whole training, when there are no sections.
        student_layers: the student's depth M.

    Raises:
        ConfigError: a phase is too short, freezes what is not there or everything, or a weight's window leaves it.
    """
    always = _parts(training.freeze, student_layers, "training.freeze")
    if not sections:
        phases = [replace(whole_training(objectives, training), freeze=always)]
    else:
        phases = list(_stages(sections, training, student_layers, always))
    for phase in phases:
        _check(phase, student_layers)
    return tuple(phases)


def distinct_objectives(phases: Sequence[PhaseSpec]) -> tuple[Objective, ...]:
    """The objectives of all phases, each once, in the order in which they enter; the weight makes no difference."""
    found: dict[tuple[str, int], Objective] = {}
    for phase in phases:
        for key, objective in zip(objective_keys(phase.objectives), phase.objectives, strict=True):
            found.setdefault(key, objective)
    return tuple(found.values())


def objective_keys(objectives: Sequence[Objective]) -> list[tuple[str, int]]:
    """What makes objectives the same in several phases: all options but the weight, and which of several such it is."""
    keys: list[tuple[str, int]] = []
    for objective in objectives:
        options = objective.model_dump_json(exclude={"weight"})
        keys.append((options, sum(options == other for other, _ in keys)))
    return keys


def _stages(
    sections: Sequence[PhaseSection], training: TrainingSection, student_layers: int, always: tuple[str, ...]
) -> Iterator[PhaseSpec]:
    done, share = 0, 0.0
    for section in sections:
        own = _parts(section.freeze, student_layers, f"phases.{section.name}.freeze")
        share += section.share
        end = training.steps if section is sections[-1] else round(share * training.steps)
        stages = 1 if section.progress == "none" else student_layers
        if end - done < stages:
            parts = "" if stages == 1 else f", which progress {section.progress} cuts into {stages} parts"
            raise ConfigError(
                f"phases.{section.name}: a share of {section.share:g} of {training.steps} steps leaves it "
                f"{end - done} step(s){parts}; raise its share or training.steps."
            )
        for number in range(1, stages + 1):
            layers, below = _progress(section, number, student_layers)
            yield PhaseSpec(
                name=section.name if section.progress == "none" else f"{section.name}-{number}",
                first_step=done + (end - done) * (number - 1) // stages + 1,
                last_step=done + (end - done) * number // stages,
                objectives=section.objectives,
                freeze=tuple(dict.fromkeys((*always, *own, *below))),
                learning_rate=section.learning_rate,
                layers=layers,
            )
        done = end


def _progress(section: PhaseSection, number: int, depth: int) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Of part `number` of a phase: the student layers that are matched, and what is frozen."""
    match section.progress:
        case "bottom-up":
            return tuple(range(number + 1)), ()
        case "layer-by-layer":
            return ((0, 1) if number == 1 else (number,)), _below(number)
        case "unfreeze-down":
            return None, _below(depth - number + 1)
        case "none":
            return None, ()


def _below(layer: int) -> tuple[str, ...]:
    """The parts under a layer; none under the first, with which the embedding goes."""
    return () if layer == 1 else ("embedding", *(f"layer-{number}" for number in range(1, layer)))


def _parts(names: Sequence[str], depth: int, where: str) -> tuple[str, ...]:
    """Names as configured, with `layers` written out."""
    layers = tuple(f"layer-{number}" for number in range(1, depth + 1))
    found: list[str] = []
    for name in names:
        number = name.removeprefix("layer-")
        if name != number and number.isdigit() and name not in layers:
            raise ConfigError(f"{where}: '{name}' is outside the student, whose layers are layer-1 to layer-{depth}.")
        if name not in (*layers, "layers", "embedding", "head"):
            raise ConfigError(
                f"{where}: a student has no part '{name}'; {nearest(name, ['embedding', 'layers', 'layer-1', 'head'])}"
            )
        found += layers if name == "layers" else [name]
    return tuple(dict.fromkeys(found))


def _check(phase: PhaseSpec, depth: int) -> None:
    where = "" if phase.name == WHOLE else f"Phase '{phase.name}': "
    if len(phase.freeze) == depth + 2:
        raise ConfigError(
            f"{where or 'training.freeze: '}every part of the student is frozen; leave one to be trained."
        )
    for objective in phase.objectives:
        _check_window(phase, objective, where)
    if phase.layers is not None and not any(_matches(objective, phase.layers, depth) for objective in phase.objectives):
        raise ConfigError(
            f"{where}none of its objectives matches layer {phase.layers[-1]}, so that nothing would be trained; give "
            "its objectives a map of all layers, or the phase another 'progress'."
        )


def _check_window(phase: PhaseSpec, objective: Objective, where: str) -> None:
    weight = objective.weight
    if not isinstance(weight, RampSection | WindowSection):
        return
    named = f"{where}objective {objective.type}, weight: "
    last = phase.num_steps if weight.last_step is None else weight.last_step
    if last > phase.num_steps or weight.first_step > phase.num_steps:
        option, step = ("last_step", last) if last > phase.num_steps else ("first_step", weight.first_step)
        raise ConfigError(
            f"{named}{option} {step} is beyond the {phase.num_steps} steps of "
            f"{'training' if phase.name == WHOLE else 'this phase'}; steps are counted from 1 there: lower it."
        )
    if weight.first_step > last:
        raise ConfigError(f"{named}first_step {weight.first_step} comes after last_step {last}; exchange them.")


def _matches(objective: Objective, layers: Sequence[int], depth: int) -> bool:
    """Whether an objective compares anything when only these student layers are matched."""
    if not isinstance(objective, MatchedObjective):
        return True
    if isinstance(objective, HiddenStatesObjective) and objective.embeddings and 0 in layers:
        return True
    match objective.map:
        case "last":
            return depth in layers
        case "middle":
            return (depth + 1) // 2 in layers
        case "skip":
            return any(0 < layer < depth for layer in layers)
        case dict() as pairs:
            return any(layer in pairs for layer in layers)
        case _:
            return True
