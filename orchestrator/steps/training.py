"""Step: train the groups of a setup, side by side where there is room, and export their students."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator import events
from orchestrator.cluster import Cluster, Gang
from orchestrator.config.phases import PhaseSpec
from orchestrator.config.setups import GroupSpec, StudentSpec
from orchestrator.errors import ClusterError, ConfigError, StoreError
from orchestrator.models.checkpoints import tokenizer_hash, weights_hash
from orchestrator.run import Run
from orchestrator.signals.fingerprint import JSON, Fingerprint
from orchestrator.signals.store import Store
from orchestrator.steps.asking import answering
from orchestrator.steps.exports import student_receipt, write_cards
from orchestrator.steps.incidents import noted
from orchestrator.steps.sentences import sentence_stores
from orchestrator.steps.signals import open_stores
from orchestrator.steps.vocabularies import vocabulary_folders
from orchestrator.storage import Place, parse_json, read_bytes, write_bytes
from orchestrator.students.job import GroupJob, Seat, SentenceFacts, TeacherFacts

if TYPE_CHECKING:
    from orchestrator.students.worker import StudentWorker

_log = logging.getLogger(__name__)

#: Of the training section, what does not change a student and may differ when a run goes on; what is frozen is said by
#: the phases.
_FREE = ("log_every", "checkpoint_seconds", "keep_checkpoints", "baseline", "threads", "freeze")
_NO_DEADLINE = float("inf")


def missing_groups(run: Run, stores: Mapping[str, Store]) -> list[GroupJob]:
    """Jobs of the groups that are not trained and exported yet; checkpoints that a stop left of the others are removed.

    Raises:
        StoreError: signals or vocabularies are missing.
        ConfigError: a folder holds a student that was made from other inputs; the text names what differs.
    """
    vocabularies, sentences = vocabulary_folders(run, stores), sentence_stores(run)
    jobs = []
    for group in run.expanded.groups:
        fingerprint = _fingerprint(run, group, stores, vocabularies, sentences)
        for student in group.students:
            _claim(run, student, fingerprint)
        if all(is_exported(run, student, fingerprint.digest) for student in group.students):
            _remove_checkpoints(run, group)
        else:
            jobs.append(_job(run, group, stores, vocabularies, sentences, fingerprint.digest))
    return jobs


def train(run: Run, cluster_of: Callable[[], Cluster]) -> None:
    """Train what is missing; a group that fails does not stop the others, and is named at the end."""
    stores = open_stores(run)
    jobs = missing_groups(run, stores)
    if jobs:
        _train(run, stores, jobs, cluster_of())
    write_cards(run)


def _train(run: Run, stores: Mapping[str, Store], jobs: Sequence[GroupJob], cluster: Cluster) -> None:
    _log.info("training: %s", ", ".join(job.group.name for job in jobs))
    lost, workers = [], run.config.cluster.student_workers
    with answering(run, stores, jobs, cluster) as (jobs, room):
        if cluster.is_joined and run.config.training.threads is None:  # its machines are not like this one
            jobs = [replace(job, threads=max(1, int(room.student.cpus))) for job in jobs]
        for outcome in cluster.run_units(
            make_student_worker,
            jobs,
            need=room.student,
            workers=len(jobs),
            deadline_seconds=_NO_DEADLINE,
            max_attempts=run.config.cluster.max_attempts,
            label=group_name,
            fresh_worker=True,
            gang=Gang(workers, seated) if workers > 1 else None,
            on_incident=noted(run.root, group_name, _subjects),
        ):
            if outcome.error is not None:
                lost.append(outcome)
            else:
                _remove_checkpoints(run, outcome.unit.group)
                _log.info("training: %s is done after %.0f s", outcome.unit.group.name, outcome.seconds)
    if lost:
        names = ", ".join(outcome.unit.group.name for outcome in lost)
        raise ClusterError(
            f"Not trained to the end: {names}, because {lost[0].error}. Mend that and run the same command again: it "
            "goes on from the last checkpoint, and what is done stays done."
        )


def group_name(job: GroupJob) -> str:
    """A group in messages."""
    return f"group {job.group.name}"


def _subjects(job: GroupJob) -> list[str]:
    return [events.subject("student", student.name) for student in job.group.students]


def seated(job: GroupJob, rank: int, size: int, address: str) -> GroupJob:
    """The job as one of several workers is told it."""
    return replace(job, seat=Seat(rank, size, address))


def make_student_worker() -> StudentWorker:
    """A worker in its own process; torch is imported there."""
    from orchestrator.students.worker import StudentWorker

    return StudentWorker()


def is_exported(run: Run, student: StudentSpec, digest: str) -> bool:
    """Whether `final/` is whole and was made from these inputs."""
    receipt = student_receipt(run.students_folder / student.name)
    return receipt is not None and receipt.get("fingerprint") == digest


def _remove_checkpoints(run: Run, group: GroupSpec) -> None:
    """Nobody goes on from them once every student of the group is exported, and they are most of a run's bytes.

    Here and not in the worker, whose unit is tried again when it dies after the export.
    """
    paths = [run.students_folder / student.name / "checkpoints" for student in group.students]
    if not any(path.exists() for path in paths):  # without torch, then
        return
    from orchestrator.students import checkpoint

    for path in paths:
        checkpoint.remove_all(path)


def default_threads(run: Run) -> int:
    """Threads of one worker: the cores divided among those of all groups, so that resuming changes nothing."""
    workers = 1 if run.address == "in-process" else run.config.cluster.student_workers
    return run.config.training.threads or max(1, len(os.sched_getaffinity(0)) // (len(run.expanded.groups) * workers))


def _job(
    run: Run,
    group: GroupSpec,
    stores: Mapping[str, Store],
    vocabularies: Mapping[str, Path],
    sentences: Mapping[str, Place],
    digest: str,
) -> GroupJob:
    sampling = run.config.corpus.sampling
    teachers = sorted({name for student in group.students for name in student.teachers.values()})
    return GroupJob(
        group=group,
        setup=run.expanded.setup,
        root=run.root,
        seed=run.config.run.seed,
        training=run.config.training,
        share=run.config.share,
        alpha=sampling.alpha,
        max_epochs=sampling.max_epochs,
        max_length=run.config.corpus.max_length,
        teachers={
            name: TeacherFacts(
                section=run.config.teachers[name],
                store=stores[name].folder,
                info=run.checkpoints[name],
            )
            for name in teachers
        },
        vocabularies={student.origin: vocabularies[student.origin] for student in group.students},
        requests={
            student.name: {name: run.student_request(student, name) for name in set(student.teachers.values())}
            for student in group.students
        },
        fingerprint=digest,
        threads=default_threads(run),
        sentences={
            student.name: tuple(
                SentenceFacts(pivot.text, pivot.language, pivot.teacher, sentences[pivot.name])
                for pivot in run.student_pivots(student)
            )
            for student in group.students
        },
    )


def _fingerprint(
    run: Run,
    group: GroupSpec,
    stores: Mapping[str, Store],
    vocabularies: Mapping[str, Path],
    sentences: Mapping[str, Place],
) -> Fingerprint:
    """Everything that decides the students of a group."""
    training = run.config.training.model_dump(mode="json", exclude=set(_FREE))
    names = sorted({name for student in group.students for name in student.teachers.values()})
    return Fingerprint(
        {
            "seed": run.config.run.seed,
            "training": training,
            "share": run.config.share.model_dump(mode="json"),
            "sampling": run.config.corpus.sampling.model_dump(mode="json"),
            "signals": {name: stores[name].fingerprint.digest for name in names},
            "sentences": {
                student.name: [sentences[pivot.name].name for pivot in run.student_pivots(student)]
                for student in group.students
            },
            "students": {
                student.name: {
                    "template": student.template.model_dump(mode="json"),
                    "languages": list(student.languages),
                    "teachers": dict(student.teachers),
                    "phases": [_phase(phase) for phase in student.phases],
                    "vocabulary": vocabularies[student.origin].name,
                    "checkpoint": _checkpoint_hashes(student),
                }
                for student in group.students
            },
        }
    )


def _phase(phase: PhaseSpec) -> dict[str, JSON]:
    """A phase as plain data."""
    objectives: list[JSON] = [objective.model_dump(mode="json") for objective in phase.objectives]
    return asdict(replace(phase, objectives=())) | {"objectives": objectives}


def _checkpoint_hashes(student: StudentSpec) -> list[str]:
    """What lies in the folder that a student starts from; nothing when it starts from its teachers or at random."""
    start = student.template.initialisation
    if start.checkpoint is None:
        return []
    return [of(start.checkpoint, revision=start.revision) for of in (weights_hash, tokenizer_hash)]


def _claim(run: Run, student: StudentSpec, fingerprint: Fingerprint) -> None:
    """Write down what a student's folder is made from, or refuse a folder that was made from something else."""
    folder = run.students_folder / student.name
    path = folder / "inputs.json"
    if not path.exists():
        write_bytes(path, json.dumps(fingerprint.parts, indent=1).encode())
        return
    try:
        found = Fingerprint(cast(dict[str, JSON], parse_json(read_bytes(path, max_bytes=1 << 20))))
    except (ValueError, AttributeError):
        raise StoreError(f"{path} is damaged; remove {folder} to train this student again.") from None
    if found.digest != fingerprint.digest:
        raise ConfigError(
            f"{folder} holds a student that {found.difference(fingerprint)}; move that folder away to train anew, or "
            "choose another run.root."
        )
