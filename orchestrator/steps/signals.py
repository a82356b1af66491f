"""Step: read the corpus once, and let each teacher say what the objectives need, shard by shard, on the cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from math import floor
from typing import TYPE_CHECKING

from orchestrator import costs
from orchestrator.cluster import Cluster
from orchestrator.corpus.store import Corpus, build_corpus
from orchestrator.errors import ClusterError, StoreError
from orchestrator.records import BatchPlan, SignalRequest, Unit
from orchestrator.run import Run
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import bytes_per_token
from orchestrator.signals.store import Store, find_store, store_folder

if TYPE_CHECKING:
    from orchestrator.teachers.worker import PrecomputeJob, TeacherWorker

#: Texts of each language that estimates are made from.
_SAMPLE_TEXTS = 400


@dataclass(frozen=True)
class StorePlan:
    """One teacher's store before or after it is made."""

    teacher: str
    request: SignalRequest
    corpus: Corpus
    fingerprint: Fingerprint
    plan: BatchPlan
    tokens_per_character: Mapping[str, float]
    units: tuple[Unit, ...]
    missing: tuple[Unit, ...]


def precompute(run: Run, cluster_of: Callable[[], Cluster]) -> None:
    """Compute the shards that some student of this setup listens to and that are missing.

    Raises:
        ClusterError: units kept losing their worker; they are named, and all the others are done.
    """
    from orchestrator.teachers.worker import PrecomputeJob, TeacherTask

    corpus = prepare_corpus(run)
    plans = plan_stores(run, corpus)
    stores = {name: _create(run, plan) for name, plan in plans.items()}
    units = [unit for name, store in stores.items() for unit in store.missing() if _is_heard(run, unit, name)]
    if not units:
        return
    job = PrecomputeJob(
        teachers={
            name: TeacherTask(run.config.teachers[name], stores[name].folder, plan.plan) for name, plan in plans.items()
        },
        corpus_folder=corpus.folder,
        corpus=run.config.corpus,
        seed=run.config.run.seed,
    )
    cluster, section = cluster_of(), run.config.cluster
    threads = max(plan.plan.threads for plan in plans.values())
    cpus = section.cpus_per_teacher or float(threads)
    gpus = section.gpus_per_teacher if section.gpus_per_teacher is not None else min(1.0, cluster.gpus)
    room = floor(cluster.gpus / gpus) if gpus else floor(cluster.cpus / cpus)
    lost = []
    for outcome in cluster.run_units(
        partial(make_teacher_worker, job),
        units,
        workers=min(len(units), section.teacher_actors or max(1, room)),
        cpus=cpus,
        gpus=gpus,
        deadline_seconds=section.unit_deadline_seconds,
        max_attempts=section.max_attempts,
        label=lambda unit: (
            f"shard {unit.index} of teacher '{unit.teacher}' ({unit.language}, texts from {unit.first_text})"
        ),
    ):
        if outcome.error is not None or outcome.result is None:
            lost.append(f"shard {outcome.unit.index} of '{outcome.unit.teacher}' ({outcome.error})")
            continue
        receipt, unit = outcome.result, outcome.unit
        num_bytes = sum(table.num_bytes for table in receipt.tables.values())
        costs.record(
            run.root,
            costs.UnitCost(
                teacher=unit.teacher,
                language=unit.language,
                shard=unit.index,
                tokens=receipt.num_tokens,
                masked=receipt.num_masked,
                num_bytes=num_bytes,
                seconds=outcome.seconds,
                attempts=outcome.attempts,
            ),
        )
    for store in stores.values():
        if not store.missing():
            store.finish()
    if lost:
        raise ClusterError(f"{len(lost)} shards were given up: {'; '.join(lost)}. All others are done.")


def make_teacher_worker(job: PrecomputeJob) -> TeacherWorker:
    """A worker in its own process; torch is imported there."""
    from orchestrator.teachers.worker import TeacherWorker

    return TeacherWorker(job)


def prepare_corpus(run: Run, on_progress: Callable[[str, str, int], None] | None = None) -> Corpus:
    """The corpus of the run: read from its sources the first time, opened afterwards."""
    return build_corpus(run.config.corpus, root=run.root, seed=run.config.run.seed, on_progress=on_progress)


def plan_stores(run: Run, corpus: Corpus) -> dict[str, StorePlan]:
    """Teacher -> its store as this configuration wants it, and which of its units are missing."""
    return {name: _plan(run, corpus, name) for name in run.teachers}


def open_stores(run: Run, teachers: Collection[str] | None = None) -> dict[str, Store]:
    """Stores that hold all that this setup listens to.

    Raises:
        StoreError: signals are missing; the text names the teacher and how many shards.
    """
    stores = {name: _find(run, name) for name in run.teachers if teachers is None or name in teachers}
    for name, store in stores.items():
        waiting = [unit for unit in store.missing() if _is_heard(run, unit, name)]
        lacking = set(run.teacher_request(name).hidden_layers) - set(store.request.hidden_layers)
        if waiting or lacking:
            what = f"{len(waiting)} of {len(store.units)} shards" if waiting else f"hidden layers {sorted(lacking)}"
            raise StoreError(
                f"Teacher '{name}' has not said all yet: {what} are missing; run `orch precompute-teacher`."
            )
    return stores


def known_stores(run: Run) -> dict[str, Store]:
    """Stores that are there, complete or not; for showing progress."""
    found = {}
    for name in run.teachers:
        try:
            found[name] = _find(run, name)
        except StoreError:
            continue
    return found


def _is_heard(run: Run, unit: Unit, teacher: str) -> bool:
    return unit.language in run.teacher_languages(teacher)


def _find(run: Run, name: str) -> Store:
    corpus = prepare_corpus(run)
    return find_store(run.root / "signals", name, _fingerprint(run, corpus, name, _batch_plan(run, name)))


def _create(run: Run, plan: StorePlan) -> Store:
    info = run.checkpoints[plan.teacher]
    return Store.create(
        store_folder(run.root / "signals", plan.teacher, plan.fingerprint),
        teacher=plan.teacher,
        fingerprint=plan.fingerprint,
        request=plan.request,
        codec=run.config.signals.hidden_codec,
        width=info.width if info else None,
        languages=list(run.config.teachers[plan.teacher].languages),
        units=list(plan.units),
    )


def _plan(run: Run, corpus: Corpus, name: str) -> StorePlan:
    from orchestrator.corpus.tokenise import tokens_per_character
    from orchestrator.models.tokenizers import load_tokenizer
    from orchestrator.teachers.units import plan_units

    section, info = run.config.teachers[name], run.checkpoints[name]
    request, batch_plan = run.teacher_request(name), _batch_plan(run, name)
    fingerprint = _fingerprint(run, corpus, name, batch_plan)
    tokenizer = load_tokenizer(section.tokenizer_path, revision=section.revision)
    density = {
        language: tokens_per_character(corpus.sample(language, _SAMPLE_TEXTS), tokenizer=tokenizer)
        for language in section.languages
    }
    folder = store_folder(run.root / "signals", name, fingerprint)
    try:
        store = Store.open(folder)
    except StoreError:
        per_token = bytes_per_token(
            request,
            run.config.signals.hidden_codec,
            info.width if info else None,
            run.config.corpus.masking.probability,
        )
        units = plan_units(
            corpus,
            name,
            section,
            tokens_per_character=density,
            bytes_per_token=sum(per_token.values()),
            shard_bytes=run.config.signals.shard_megabytes << 20,
            copies=run.config.corpus.masking.copies,
        )
        missing = units
    else:
        units = store.units
        wider = set(request.hidden_layers) - set(store.request.hidden_layers)
        missing = units if wider else store.missing()
    return StorePlan(name, request, corpus, fingerprint, batch_plan, density, tuple(units), tuple(missing))


def _fingerprint(run: Run, corpus: Corpus, name: str, plan: BatchPlan) -> Fingerprint:
    from orchestrator.teachers.fingerprint import fingerprint_parts

    parts = fingerprint_parts(
        run.config.teachers[name],
        corpus,
        run.config.corpus,
        seed=run.config.run.seed,
        request=run.teacher_request(name),
        codec=run.config.signals.hidden_codec,
        plan=plan,
    )
    return Fingerprint(parts)


def _batch_plan(run: Run, name: str) -> BatchPlan:
    from orchestrator.models.devices import pick_device, pick_dtype

    section = run.config.teachers[name]
    return BatchPlan(
        tokens_per_batch=section.tokens_per_batch,
        threads=section.threads,
        dtype=pick_dtype(section.dtype, device=pick_device(section.device)),
    )
