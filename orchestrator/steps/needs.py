"""What teachers and students take of a cluster, and how many teachers run: as the configuration says, else chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.cluster import Cluster, Machine, Need, even_cpus, even_gpus, room, without
from orchestrator.errors import ClusterError
from orchestrator.run import Run


@dataclass(frozen=True)
class Room:
    """How many teachers answer beside the students, and what each actor of either takes."""

    teachers: int
    teacher: Need
    student: Need


def teacher_need(run: Run, cluster: Cluster, *, runs_model: bool = True) -> Need:
    """Of one actor that does nothing but teach: as many CPUs as it has threads, and a GPU where there are some."""
    gpus = _teacher_gpus(run, 1.0 if cluster.gpus >= 1 else cluster.gpus) if runs_model else 0.0
    return _teacher_need(run, float(_threads(run)), gpus)


def teacher_actors(run: Run, cluster: Cluster, need: Need) -> tuple[int, int | None]:
    """(how many are asked for at once, the most there may be; None: as many as find room)."""
    wished, found = run.config.cluster.teacher_actors, room(cluster.machines, need)
    most = wished.max or (None if cluster.is_joined else max(1, wished.min, found))
    return min(most or found, max(wished.min, found)) or 1, most


def share_out(run: Run, cluster: Cluster, *, answers: bool) -> Room:
    """Teachers that answer get half of the cluster unless the configuration says otherwise, students the rest.

    Raises:
        ClusterError: nothing is left for a student.
    """
    section, machines = run.config.cluster, cluster.machines
    half = min(float(_threads(run)), cluster.cpus / 2) or float(_threads(run))
    teacher = _teacher_need(run, half, _teacher_gpus(run, even_gpus(machines, 2)))
    wished = section.teacher_actors
    teachers = (wished.max or max(wished.min, room(machines, teacher) // 2)) if answers else 0
    left = without(machines, teacher, teachers)
    processes = len(run.expanded.groups) * section.student_workers
    student = _student_need(run, left, processes)
    if student.gpus and section.student_workers > 1 and section.gpus_per_student is None:
        student = replace(student, gpus=1.0)  # several on one GPU cannot meet by NCCL
    is_full = teachers > room(machines, teacher) or not room(left, student)
    if answers and is_full and run.address != "in-process":
        cpus, gpus = cluster.cpus - teachers * teacher.cpus, cluster.gpus - teachers * teacher.gpus
        raise ClusterError(
            f"signals.mode {run.config.signals.mode} runs teachers and students side by side, but {teachers} teachers "
            f"with {teacher} each leave {max(0.0, cpus):g} CPUs and {max(0.0, gpus):g} GPUs of the cluster; lower what "
            "the section 'cluster' gives to a teacher or student, or take signals.mode cache"
        )
    return Room(teachers, teacher, student)


def even_need(run: Run, cluster: Cluster, count: int) -> Need:
    """Of each of `count` workers that do what students do, all at once where there is room."""
    return _student_need(run, cluster.machines, count)


def _threads(run: Run) -> int:
    return max(run.config.teachers[name].threads for name in run.teachers)


def _teacher_gpus(run: Run, chosen: float) -> float:
    given = run.config.cluster.gpus_per_teacher
    return chosen if given is None else given


def _teacher_need(run: Run, cpus: float, gpus: float) -> Need:
    section = run.config.cluster
    spread = _spread(section.teacher_placement)
    return Need(section.cpus_per_teacher or cpus, gpus, section.resources_per_teacher, spread)


def _student_need(run: Run, machines: Sequence[Machine], processes: int) -> Need:
    """Of one process: an even share of CPUs and GPUs, so that all of them run at once where there is room."""
    section = run.config.cluster
    gpus = section.gpus_per_student if section.gpus_per_student is not None else even_gpus(machines, processes)
    cpus = section.cpus_per_student or even_cpus(machines, processes)
    return Need(cpus, gpus, section.resources_per_student, _spread(section.student_placement))


def _spread(placement: Literal["pack", "spread"]) -> bool:
    return placement == "spread"
