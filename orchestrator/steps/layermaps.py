"""Which parts of a teacher the parts of each student are compared with, and start from, phase by phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.config.models import InitialisationSection
from orchestrator.config.objectives import (
    EmbeddingsObjective,
    MaskedLMObjective,
    MatchedObjective,
    Objective,
    SentenceVectorsObjective,
)
from orchestrator.config.phases import PhaseSpec
from orchestrator.config.setups import StudentSpec
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.models.maps import layer_map
from orchestrator.report.making import EMBEDDING, HEAD, LayerMap, Link, Stage
from orchestrator.run import Run
from orchestrator.students.requests import matched_layers


def layer_maps(run: Run) -> list[LayerMap]:
    """One for each teacher and the students that learn alike from it; twins without a teacher are left out."""
    found: dict[LayerMap, list[str]] = {}
    for student in run.expanded.students:
        for teacher in dict.fromkeys(student.teachers.values()):
            info = run.checkpoints[teacher]
            if student.role != "baseline" and info is not None:
                found.setdefault(_layer_map(student, teacher, info), []).append(student.name)
    return [replace(one, students=tuple(names)) for one, names in found.items()]


def _layer_map(student: StudentSpec, teacher: str, info: CheckpointInfo) -> LayerMap:
    """Without the student's name, so that those of students that learn alike are equal."""
    starts, words = _start(student, teacher, info)
    stages: list[Stage] = []
    for phase in student.phases:
        stage = _stage(phase, student, info)
        before = stages[-1] if stages else None
        if before is not None and (before.links, before.frozen) == (stage.links, stage.frozen):
            stages[-1] = replace(before, phases=(*before.phases, phase.name), last_step=phase.last_step)
        else:
            stages.append(stage)
    return LayerMap(teacher, (), info.depth, student.template.layers, starts, words, tuple(stages))


def _stage(phase: PhaseSpec, student: StudentSpec, info: CheckpointInfo) -> Stage:
    links = (link for objective in phase.objectives for link in _links(objective, phase, student, info))
    return Stage(
        phases=(phase.name,),
        first_step=phase.first_step,
        last_step=phase.last_step,
        links=tuple(dict.fromkeys(links)),
        frozen=frozenset(map(_part, phase.freeze)),
    )


def _links(objective: Objective, phase: PhaseSpec, student: StudentSpec, info: CheckpointInfo) -> Iterator[Link]:
    name, depth = objective.type, student.template.layers
    if isinstance(objective, MatchedObjective):
        for own, other in matched_layers(objective, student_layers=depth, teacher_layers=info.depth):
            if phase.layers is None or own in phase.layers:
                yield Link(name, other, own)
        return
    match objective:
        case MaskedLMObjective():
            yield Link(name, None, HEAD)
        case EmbeddingsObjective():
            yield Link(name, EMBEDDING, EMBEDDING)
        case SentenceVectorsObjective():
            yield Link(name, info.depth, depth)
        case _:
            yield Link(name, HEAD, HEAD)


def _start(student: StudentSpec, teacher: str, info: CheckpointInfo) -> tuple[tuple[Link, ...], str]:
    """The parts that are copied from this teacher; in words, where weights start."""
    start = student.template.initialisation
    if start.layers == start.embedding == "random":
        return (), "all weights start at random"
    embedding = () if start.embedding == "random" else (Link("start", EMBEDDING, EMBEDDING),)
    if start.checkpoint is not None or start.teacher not in (None, teacher):
        return (), _in_words(start)
    if start.layers == "random":
        return embedding, "layers start at random"
    pairs = layer_map(start.map, student_layers=student.template.layers, teacher_layers=info.depth)
    return (*embedding, *(Link("start", other, own) for own, other in pairs.items())), ""


def _in_words(start: InitialisationSection) -> str:
    parts = [word for word, how in (("layers", start.layers), ("embedding", start.embedding)) if how != "random"]
    return f"{' and '.join(parts)} start from {start.teacher or 'another checkpoint'}"


def _part(name: str) -> int:
    """The number of a part as `freeze` names it."""
    named = {"embedding": EMBEDDING, "head": HEAD}
    return named[name] if name in named else int(name.removeprefix("layer-"))
