"""Teachers that answer while students train, in the modes live and hybrid: what is asked of them, and in which room."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from orchestrator.steps.needs import Room, share_out
from orchestrator.steps.signals import batch_plan, known_corpus, unit_name
from orchestrator.students.job import GroupJob
from orchestrator.students.rows import WINDOW_ROWS, largest_window
from orchestrator.students.source import Asking, StoredSource

if TYPE_CHECKING:
    from orchestrator.teachers.answering import AnsweringWorker
    from orchestrator.teachers.worker import PrecomputeJob

__all__ = ["WINDOWS_HELD", "WINDOW_ROWS", "answering", "held_bytes", "make_answering_worker"]

_log = logging.getLogger(__name__)

#: A student holds the window of a language that it reads and the next one.
WINDOWS_HELD = 2


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
    _check_memory(run, cluster, {name: stores[name] for name in names}, jobs)
    plan = PoolPlan(
        partial(make_answering_worker, _job(run, stores, names)),
        size=room.teachers,
        need=room.teacher,
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


def _check_memory(run: Run, cluster: Cluster, stores: Mapping[str, Store], jobs: Sequence[GroupJob]) -> None:
    """Refuse what would have to leave the object store for the disk: all may come to lie on one machine."""
    limits = [machine.object_store_bytes for machine in cluster.machines if machine.object_store_bytes is not None]
    if run.config.signals.mode != "live" or not limits:
        return
    held, limit = held_bytes(run, stores, jobs), min(limits)
    _log.info("live: at most about %.0f MB of signals are held at a time", held / 1e6)
    if held > limit:
        remedy = "raise that" if not cluster.is_joined else "start Ray there with a larger --object-store-memory"
        raise ClusterError(
            f"signals.mode live holds up to {held >> 20} MB of signals at a time, more than "
            f"{'the object store of a machine' if cluster.is_joined else 'cluster.object_store_megabytes'} "
            f"({limit >> 20}); {remedy}, lower signals.shard_megabytes in another run.root, or take signals.mode hybrid"
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
