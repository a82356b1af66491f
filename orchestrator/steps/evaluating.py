"""Step: measure the students of a setup beside their teachers and their no-teacher twins."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.cluster import Cluster, Need, even_cpus
from orchestrator.config.setups import BASELINE_SUFFIX, StudentSpec
from orchestrator.errors import ClusterError, StoreError
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob
from orchestrator.records import MetricRow
from orchestrator.report.reading import read_metrics
from orchestrator.run import Run
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.store import Store
from orchestrator.steps.exports import student_receipt, write_cards
from orchestrator.steps.incidents import noted
from orchestrator.steps.signals import known_corpus, open_stores
from orchestrator.steps.vocabularies import vocabulary_folders
from orchestrator.storage import parse_json, read_bytes, write_bytes

if TYPE_CHECKING:
    from orchestrator.evaluation.worker import EvaluationUnit, EvaluationWorker

_log = logging.getLogger(__name__)

_MOST_CPUS = 8.0


def evaluate(run: Run, cluster_of: Callable[[], Cluster]) -> None:
    """Measure what changed since the last time, and put the rows into evaluation/metrics.jsonl.

    Raises:
        StoreError: a student is not trained yet.
    """
    evaluate_together([run], cluster_of)


def evaluate_together(runs: Sequence[Run], cluster_of: Callable[[], Cluster]) -> None:
    """The same for runs that agree in text, teachers and evaluation: one job, in which each teacher runs once."""
    digests = {run.root: _digest(run) for run in runs}
    waiting = [run for run in runs if not is_evaluated(run, digests[run.root])]
    if waiting:
        _log.info("evaluation of %s", ", ".join(dict.fromkeys(run.expanded.setup for run in waiting)))
        _evaluate(waiting, cluster_of())
        for run in waiting:
            write_bytes(_receipt_path(run), json.dumps({"inputs": digests[run.root]}).encode())
        parts_path(waiting[0]).unlink(missing_ok=True)
    for run in runs:
        write_cards(run)


def check_tables(run: Run) -> None:
    """Refuse parallel text and tables of probes that cannot be used, before a teacher runs for hours.

    DataError names the file or column.
    """
    from orchestrator.corpus.labelled import read_labelled
    from orchestrator.corpus.parallel import read_parallel

    for source in (*run.config.evaluation.parallel, *(pivot.text for pivot in run.pivots)):
        read_parallel(source)
    for name, task in run.config.evaluation.probes.items():
        read_labelled(task, key=f"evaluation.probes.{name}")


def _unit_name(_unit: EvaluationUnit) -> str:
    return "evaluation"


def _evaluate(runs: Sequence[Run], cluster: Cluster) -> None:
    from orchestrator.evaluation.worker import EvaluationUnit

    cpus = max(1.0, min(_MOST_CPUS, even_cpus(cluster.machines, 1)))
    prefixes = {run.root: f"{run.root}:" if len(runs) > 1 else "" for run in runs}
    unit = EvaluationUnit(
        _joined([(prefixes[run.root], _job(run, threads=int(cpus))) for run in runs]), parts_path(runs[0])
    )
    for outcome in cluster.run_units(
        make_evaluation_worker,
        [unit],
        need=Need(cpus, gpus=1.0 if cluster.gpus else 0.0),
        workers=1,
        deadline_seconds=float("inf"),
        max_attempts=runs[0].config.cluster.max_attempts,
        label=_unit_name,
        fresh_worker=True,
        on_incident=noted(
            runs[0].root,
            _unit_name,
            lambda _: [events.subject("evaluation", run.expanded.setup) for run in runs],
        ),
    ):
        if outcome.error is not None or outcome.result is None:
            raise ClusterError(f"The evaluation was given up: {outcome.error}. Run `orch evaluate` again.")
        for run in runs:
            _keep(run, outcome.result, prefixes[run.root])


def _joined(jobs: Sequence[tuple[str, EvaluationJob]]) -> EvaluationJob:
    """One job of all models, teachers once; `prefix` sets the students of each job apart."""
    models: dict[str, EvaluatedModel] = {}
    systems: dict[str, tuple[str, ...]] = {}
    for prefix, job in jobs:
        for model in job.models:
            named = model if model.role == "teacher" else replace(model, name=prefix + model.name)
            models.setdefault(named.name, named)
        systems |= {prefix + name: tuple(prefix + one for one in members) for name, members in job.systems.items()}
    return replace(jobs[0][1], models=tuple(models.values()), systems=systems)


def _keep(run: Run, rows: Sequence[MetricRow], prefix: str) -> None:
    """Put what was measured of a run and of its teachers in the place of what was known of them."""
    heard = set(run.teachers)
    own = [
        replace(row, model=row.model.removeprefix(prefix))
        for row in rows
        if (row.model in heard if row.role == "teacher" else row.model.startswith(prefix))
    ]
    measured = {row.model for row in own}
    kept = [row for row in read_metrics(run.metrics_path) if row.model not in measured]
    lines = (json.dumps(asdict(row), ensure_ascii=False) for row in [*kept, *own])
    write_bytes(run.metrics_path, "".join(f"{line}\n" for line in lines).encode())


def make_evaluation_worker() -> EvaluationWorker:
    """A worker in its own process; torch is imported there."""
    from orchestrator.evaluation.worker import EvaluationWorker

    return EvaluationWorker()


def is_evaluated(run: Run, digest: str | None = None) -> bool:
    """Whether the rows of this setup are there and were measured on these students."""
    path = _receipt_path(run)
    if not path.exists() or not run.metrics_path.exists():
        return False
    try:
        found = parse_json(read_bytes(path, max_bytes=1 << 16))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("inputs") == (digest or _digest(run))


def parts_path(run: Run) -> Path:
    """Where finished parts stand until all are."""
    return run.metrics_path.with_name(f"{run.expanded.setup}.parts.jsonl")


def num_measurements(run: Run) -> int:
    """How many rows of masked-LM accuracy an evaluation makes: one per model, language and split."""
    models = sum(len(student.languages) for student in run.expanded.students)
    teachers = sum(
        len(run.config.teachers[name].languages) for name in run.teachers if run.checkpoints[name] is not None
    )
    return 2 * (models + teachers * run.config.evaluation.teachers)


def _receipt_path(run: Run) -> Path:
    return run.metrics_path.with_name(f"{run.expanded.setup}.json")


def _digest(run: Run) -> str:
    receipts = {}
    for student in run.expanded.students:
        receipt = student_receipt(run.students_folder / student.name)
        if receipt is None:
            raise StoreError(f"Student '{student.name}' is not trained yet; run `orch train-students` first.")
        receipts[student.name] = receipt.get("fingerprint")
    return Fingerprint(
        {
            "students": receipts,
            "corpus": known_corpus(run).fingerprint,
            "rows": run.config.corpus.model_dump(mode="json", include={"max_length", "masking"}),
            "evaluation": run.config.evaluation.model_dump(mode="json"),
            "seed": run.config.run.seed,
        }
    ).digest


def _job(run: Run, *, threads: int) -> EvaluationJob:
    stores = open_stores(run)
    vocabularies = vocabulary_folders(run, stores)
    setup = run.expanded.setup
    models = [_teacher(run, name, stores[name]) for name in run.teachers]
    models += [_student(run, student, vocabularies[student.origin]) for student in run.expanded.students]
    systems: dict[str, tuple[str, ...]] = {}
    for role, name in (("student", setup), ("baseline", setup + BASELINE_SUFFIX)):
        members = tuple(f"{setup}/{s.name}" for s in run.expanded.students if s.role == role)
        if len(members) > 1:
            systems[name] = members
    return EvaluationJob(
        models=tuple(models),
        corpus_folder=known_corpus(run).folder,
        corpus=run.config.corpus,
        evaluation=run.config.evaluation,
        systems=systems,
        seed=run.config.run.seed,
        threads=threads,
    )


def _teacher(run: Run, name: str, store: Store) -> EvaluatedModel:
    section = run.config.teachers[name]
    return EvaluatedModel(
        name=name,
        role="teacher",
        folder=section.model,
        languages=section.languages,
        made_from=store.fingerprint.digest,
        revision=section.revision,
        tokenizers=dict.fromkeys(section.languages, section.tokenizer_path),
    )


def _student(run: Run, student: StudentSpec, vocabulary: Path) -> EvaluatedModel:
    receipt = student_receipt(run.students_folder / student.name)
    assert receipt is not None, "a digest of all students was taken"
    return EvaluatedModel(
        name=f"{run.expanded.setup}/{student.name}",
        role="baseline" if student.role == "baseline" else "student",
        folder=str(run.students_folder / student.name / "final"),
        languages=student.languages,
        made_from=Fingerprint({"files": receipt.get("files")}).digest,
        tokenizers={lang: str(vocabulary / "tokenizers" / name) for lang, name in student.teachers.items()},
        teachers=student.teachers,
        maps={lang: str(vocabulary / "maps" / f"{name}.npy") for lang, name in student.teachers.items()},
    )
