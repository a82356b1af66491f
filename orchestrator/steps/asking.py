"""Teachers that answer while students train, in the modes live and hybrid: what is asked of them, and in which room."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.cluster import Cluster, Pool, PoolPlan
from orchestrator.errors import ClusterError
from orchestrator.records import Tables, Unit
from orchestrator.run import Run
from orchestrator.signals.schema import ROW_TABLES, bytes_per_token
from orchestrator.signals.store import Store
from orchestrator.steps.incidents import note_restart
from orchestrator.steps.signals import batch_plan, known_corpus, unit_name
from orchestrator.students.job import GroupJob
from orchestrator.students.rows import WINDOW_ROWS, largest_window
from orchestrator.students.source import Asking, StoredSource

if TYPE_CHECKING:
    from orchestrator.teachers.answering import AnsweringWorker
    from orchestrator.teachers.worker import PrecomputeJob

__all__ = ["WINDOWS_HELD", "WINDOW_ROWS", "Room", "answering", "held_bytes", "make_answering_worker", "share_out"]

_log = logging.getLogger(__name__)

#: A student holds the window of a language that it reads and the next one.
WINDOWS_HELD = 2


@dataclass(frozen=True)
class Room:
    """What each teacher's actor and each group of students takes of a cluster."""

    teachers: int
    teacher_cpus: float
    teacher_gpus: float
    student_cpus: float
    student_gpus: float


@contextmanager
def answering(
    run: Run, stores: Mapping[str, Store], jobs: Sequence[GroupJob], cluster: Cluster
) -> Iterator[tuple[list[GroupJob], Room]]:
    """The jobs with someone to ask for what the stores lack, and the room they have beside.

    Raises:
        ClusterError: teachers and students do not fit side by side, or not what passes between them.
    """
    names = _lacking(run, stores, jobs)
    if names and run.config.cluster.student_workers > 1:
        raise ClusterError(
            f"cluster.student_workers {run.config.cluster.student_workers}: in signals.mode {run.config.signals.mode} "
            "each of several workers would ask the teachers for everything; take signals.mode cache, or one worker"
        )
    room = share_out(run, cluster, answers=bool(names))
    if not names:
        yield list(jobs), room
        return
    _check_memory(run, {name: stores[name] for name in names}, jobs)
    plan = PoolPlan(
        partial(make_answering_worker, _job(run, stores, names)),
        size=room.teachers,
        cpus=room.teacher_cpus,
        gpus=room.teacher_gpus,
        deadline_seconds=run.config.cluster.unit_deadline_seconds,
        max_attempts=run.config.cluster.max_attempts,
        label=unit_name,
        on_restart=partial(note_restart, run.root, tuple(events.subject("teacher", name) for name in names)),
    )
    _log.info("%s: %s answers while students train", run.config.signals.mode, ", ".join(names))
    with cluster.pool(plan) as pool:
        yield [_asking(job, run, pool, names) for job in jobs], room
    for name in names:
        store = Store.open(stores[name].folder)
        if not store.finished and not store.missing():
            store.finish()


def make_answering_worker(job: PrecomputeJob) -> AnsweringWorker:
    """A worker of the pool; torch is imported where it lives."""
    from orchestrator.teachers.answering import AnsweringWorker

    return AnsweringWorker(job)


def _lacking(run: Run, stores: Mapping[str, Store], jobs: Sequence[GroupJob]) -> list[str]:
    """Teachers of whom some job reads what their store lacks; none in cache mode."""
    if run.config.signals.mode == "cache":
        return []
    read = {
        name
        for job in jobs
        for requests in job.requests.values()
        for name, request in requests.items()
        if request.needs_model
    }
    return [name for name in run.teachers if name in read and _units_lacking(run, stores[name])]


def _units_lacking(run: Run, store: Store) -> bool:
    wide, languages = store.widened(run.teacher_request(store.teacher)), run.teacher_languages(store.teacher)
    return any(unit.language in languages for unit in wide.missing())


def share_out(run: Run, cluster: Cluster, *, answers: bool) -> Room:
    """Teachers that answer get half of the cluster unless the configuration says otherwise, students the rest.

    Raises:
        ClusterError: nothing is left for a student.
    """
    section = run.config.cluster
    processes = len(run.expanded.groups) * section.student_workers
    threads = max(run.config.teachers[name].threads for name in run.teachers)
    cpus = section.cpus_per_teacher or min(float(threads), cluster.cpus / 2)
    gpus = section.gpus_per_teacher if section.gpus_per_teacher is not None else min(1.0, cluster.gpus / 2)
    most = cluster.gpus / 2 // gpus if gpus else cluster.cpus / 2 // cpus
    teachers = (section.teacher_actors or max(1, int(most))) if answers else 0
    cpus_left, gpus_left = cluster.cpus - teachers * cpus, cluster.gpus - teachers * gpus
    student_cpus = section.cpus_per_student or min(cpus_left, max(1.0, cpus_left // processes))
    student_gpus = section.gpus_per_student if section.gpus_per_student is not None else min(1.0, gpus_left / processes)
    room = Room(teachers, cpus, gpus, student_cpus, student_gpus)
    is_full = cpus_left < student_cpus or cpus_left <= 0 or gpus_left < student_gpus
    if answers and is_full and run.address != "in-process":
        raise ClusterError(
            f"signals.mode {run.config.signals.mode} runs teachers and students side by side, but {teachers} teachers "
            f"with {cpus:g} CPUs and {gpus:g} GPUs each leave {max(0.0, cpus_left):g} CPUs and "
            f"{max(0.0, gpus_left):g} GPUs of the cluster; lower what the section 'cluster' gives to a teacher or "
            "student, or take signals.mode cache"
        )
    return room


def _check_memory(run: Run, stores: Mapping[str, Store], jobs: Sequence[GroupJob]) -> None:
    """Refuse what would have to leave the object store for the disk."""
    if run.config.signals.mode != "live" or run.address is not None:
        return
    held, limit = held_bytes(run, stores, jobs), run.config.cluster.object_store_megabytes << 20
    _log.info("live: at most about %.0f MB of signals are held at a time", held / 1e6)
    if held > limit:
        raise ClusterError(
            f"signals.mode live holds up to {held >> 20} MB of signals at a time, more than "
            f"cluster.object_store_megabytes ({limit >> 20}); raise that, lower signals.shard_megabytes in another "
            "run.root, or take signals.mode hybrid"
        )


def held_bytes(run: Run, stores: Mapping[str, Store], jobs: Sequence[GroupJob]) -> int:
    """About the most that is held of what teachers say: two windows of each language of each group."""
    total = 0.0
    for name, store in stores.items():
        wide = store.widened(run.teacher_request(name))
        tables = bytes_per_token(wide.request, wide.codec, wide.sizes, run.config.corpus.masking.probability)
        said = sum(size for table, size in tables.items() if table not in ROW_TABLES)
        for job in jobs:
            readers = [s for s in job.group.students if job.requests[s.name].get(name, wide.request).needs_model]
            for language in {lang for s in readers for lang, teacher in s.teachers.items() if teacher == name}:
                tokens = largest_window(StoredSource(store).sizes(language), seed=job.seed, language=language)
                total += WINDOWS_HELD * tokens * said
    return round(total)


def _asking(job: GroupJob, run: Run, pool: Pool[Unit, Tables | None], names: Sequence[str]) -> GroupJob:
    teachers = {
        name: replace(facts, live=Asking(pool, run.teacher_request(name))) if name in names else facts
        for name, facts in job.teachers.items()
    }
    return replace(job, teachers=teachers)


def _job(run: Run, stores: Mapping[str, Store], names: Sequence[str]) -> PrecomputeJob:
    from orchestrator.teachers.worker import PrecomputeJob, TeacherTask

    keeps = run.config.signals.mode == "hybrid"
    return PrecomputeJob(
        teachers={
            name: TeacherTask(
                run.config.teachers[name],
                batch_plan(run, name),
                request=stores[name].widened(run.teacher_request(name)).request,
                codec=stores[name].codec,
                store=stores[name].folder if keeps else None,
            )
            for name in names
        },
        corpus_folder=known_corpus(run).folder,
        corpus=run.config.corpus,
        seed=run.config.run.seed,
    )
