"""Step: the teachers' vectors of pivot sentences, for the objective sentence-vectors; a small store of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

from orchestrator import events
from orchestrator.cluster import Cluster
from orchestrator.errors import StoreError, UnitError
from orchestrator.records import HiddenCodec, SignalRequest, Unit
from orchestrator.run import PivotText, Run
from orchestrator.signals.finding import store_folder
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.manifest import MANIFEST
from orchestrator.signals.store import Store
from orchestrator.steps.incidents import noted
from orchestrator.steps.needs import teacher_need
from orchestrator.steps.signals import batch_plan, make_teacher_worker, prepare_corpus, teacher_sizes, unit_name
from orchestrator.storage import Place

_log = logging.getLogger(__name__)

_REQUEST = SignalRequest(sentence_vectors=True)
_CODEC: HiddenCodec = "fp16"  # vectors are few
_SENTENCES_PER_UNIT = 2048


def precompute_sentences(run: Run, cluster_of: Callable[[], Cluster]) -> None:
    """Compute the vectors that some student is held to and that are missing.

    Raises:
        UnitError: units raised or kept losing their worker; all the others are done.
    """
    pivots = {pivot.name: pivot for pivot in run.pivots}
    stores = {name: _create(run, pivot) for name, pivot in pivots.items()}
    units = [unit for store in stores.values() for unit in store.missing()]
    if not units:
        return
    from orchestrator.teachers.worker import PrecomputeJob, TeacherTask

    corpus, cluster, section = prepare_corpus(run), cluster_of(), run.config.cluster
    job = PrecomputeJob(
        teachers={
            name: TeacherTask(
                run.config.teachers[pivot.teacher],
                batch_plan(run, pivot.teacher),
                request=_REQUEST,
                codec=_CODEC,
                store=stores[name].folder,
                sentences=pivot.text,
            )
            for name, pivot in pivots.items()
        },
        corpus_folder=corpus.folder,
        corpus=run.config.corpus,
        seed=run.config.run.seed,
    )
    _log.info("sentences: %d shards are missing", len(units))
    outcomes = cluster.run_units(
        partial(make_teacher_worker, job),
        units,
        need=teacher_need(run, cluster),
        workers=1,
        deadline_seconds=section.unit_deadline_seconds,
        max_attempts=section.max_attempts,
        label=unit_name,
        on_incident=noted(run.root, unit_name, lambda unit: [events.subject("teacher", pivots[unit.teacher].teacher)]),
    )
    lost = [outcome.error for outcome in outcomes if outcome.error is not None]
    if lost:
        raise UnitError(f"{len(lost)} of {len(units)} shards of sentences were given up: {'; '.join(lost)}.")
    for store in stores.values():
        store.finish()


def sentence_stores(run: Run) -> dict[str, Place]:
    """Name of each pivot -> the store of its vectors; StoreError when one is not complete."""
    folders = {pivot.name: _folder(run, pivot) for pivot in run.pivots}
    for name, folder in folders.items():
        if not (folder / MANIFEST).exists() or not Store.open(folder).finished:
            raise StoreError(f"The vectors {name} of parallel sentences are not there; run `orch precompute-teacher`.")
    return folders


def _folder(run: Run, pivot: PivotText) -> Place:
    return store_folder(run.stores / "signals", pivot.name, _fingerprint(run, pivot))


def _create(run: Run, pivot: PivotText) -> Store:
    return Store.create(
        _folder(run, pivot),
        teacher=pivot.name,
        fingerprint=_fingerprint(run, pivot),
        request=_REQUEST,
        codec=_CODEC,
        sizes=teacher_sizes(run, pivot.teacher),
        languages=list(run.config.teachers[pivot.teacher].languages),
        units=list(_units(pivot)),
    )


def _units(pivot: PivotText) -> Iterator[Unit]:
    from orchestrator.corpus.parallel import read_parallel

    total = len(read_parallel(pivot.text))
    for index, first in enumerate(range(0, total, _SENTENCES_PER_UNIT)):
        yield Unit(pivot.name, index, pivot.language, first, min(_SENTENCES_PER_UNIT, total - first))


def _fingerprint(run: Run, pivot: PivotText) -> Fingerprint:
    from orchestrator.teachers.fingerprint import sentence_parts

    return Fingerprint(
        sentence_parts(
            run.config.teachers[pivot.teacher],
            pivot.text,
            pivot.language,
            max_length=run.config.corpus.max_length,
            plan=batch_plan(run, pivot.teacher),
        )
    )
