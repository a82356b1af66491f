"""Step: read the corpus once, and let each teacher say what the objectives need, shard by shard, on the cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orchestrator import costs, events
from orchestrator.cluster import Cluster, Outcome
from orchestrator.config.models import TeacherSection
from orchestrator.corpus.store import Corpus, build_corpus, corpus_folder, open_corpus
from orchestrator.errors import OrchError, StoreError, UnitError
from orchestrator.records import BatchPlan, SignalRequest, Unit
from orchestrator.run import Run
from orchestrator.signals.finding import find_store, store_folder
from orchestrator.signals.fingerprint import JSON, Fingerprint
from orchestrator.signals.manifest import Receipt
from orchestrator.signals.schema import ROW_TABLES, TeacherSizes, bytes_per_token
from orchestrator.signals.store import Store
from orchestrator.steps import quarantine
from orchestrator.steps.incidents import noted
from orchestrator.steps.needs import teacher_actors, teacher_need
from orchestrator.storage import Place, matching

if TYPE_CHECKING:
    from orchestrator.teachers.worker import PrecomputeJob, TeacherWorker

_log = logging.getLogger(__name__)

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
    tokens: Mapping[str, int]  # of each language's text, of one masked copy
    sizes: TeacherSizes | None
    units: tuple[Unit, ...]
    lacking: Mapping[int, tuple[str, ...]]  # unit -> its tables that are yet to be computed


def precompute(run: Run, cluster_of: Callable[[], Cluster]) -> None:
    """Compute the shards that some student of this setup listens to and that are missing.

    In the modes live and hybrid it is the masked text alone, for which no model runs: the rest is asked of the teachers
    while students train.

    Raises:
        UnitError: units raised or kept losing their worker; they are named, and all the others are done. Or the first
            of them all raised: then nothing else is begun, and what is missing is listed.
    """
    corpus = prepare_corpus(run)
    plans = plan_stores(run, corpus)
    stores = {name: _create(run, plan) for name, plan in plans.items()}
    units = [unit for name, store in stores.items() for unit in _missing(run, store) if _is_heard(run, unit, name)]
    lost: list[Outcome[Unit, Receipt]] = []
    if units:
        _log.info("precompute: %d shards are missing", len(units))
        quarantine.remind(run.stores, units)
        try:
            for outcome in _outcomes(run, corpus, plans, stores, units, cluster_of()):
                if outcome.error is not None or outcome.result is None:
                    lost.append(outcome)
                else:
                    _note(run, outcome, outcome.result)
        except UnitError as error:
            missing = quarantine.listed([unit for unit in units if stores[unit.teacher].lacking(unit)])
            raise UnitError(f"{error} Shards that are missing: {missing}.") from error
    _check_shared(run, stores, units, lost)
    for store in stores.values():
        if not store.finished and not store.missing():
            store.finish()
    quarantine.settle(run.stores, stores, lost, num_units=len(units))


def _check_shared(
    run: Run, stores: Mapping[str, Store], units: Sequence[Unit], lost: Sequence[Outcome[Unit, Receipt]]
) -> None:
    """StoreError when a worker wrote what cannot be found from here."""
    done = {(unit.teacher, unit.index) for unit in units}
    done -= {(outcome.unit.teacher, outcome.unit.index) for outcome in lost}
    for name, store in stores.items():
        for unit in _missing(run, store):
            if (name, unit.index) in done:
                raise StoreError(
                    f"{unit_name(unit)} was written by a worker but is not in {store.folder} here; run.root and "
                    "run.stores must be folders that all machines of the cluster share."
                )


def says_before(run: Run) -> bool:
    """Whether the teachers say everything before students train."""
    return run.config.signals.mode == "cache"


def _missing(run: Run, store: Store) -> list[Unit]:
    """Units of which something is missing that is to be stored before students train."""
    if says_before(run):
        return store.missing()
    lacking = store.lacking_by_shard()
    return [unit for unit in store.units if not ROW_TABLES.keys().isdisjoint(lacking.get(unit.index, ()))]


def unit_name(unit: Unit) -> str:
    """A unit in messages."""
    last = unit.first_text + unit.num_texts - 1
    return f"shard {unit.index} of teacher '{unit.teacher}' ({unit.language}, texts {unit.first_text} to {last})"


def _outcomes(
    run: Run,
    corpus: Corpus,
    plans: Mapping[str, StorePlan],
    stores: Mapping[str, Store],
    units: Sequence[Unit],
    cluster: Cluster,
) -> Iterator[Outcome[Unit, Receipt]]:
    """Run the units on as many workers as the cluster has room for."""
    from orchestrator.teachers.worker import PrecomputeJob, TeacherTask

    section = run.config.cluster
    job = PrecomputeJob(
        teachers={
            name: TeacherTask(
                run.config.teachers[name],
                plan.plan,
                request=stores[name].request if says_before(run) else SignalRequest(),
                codec=stores[name].codec,
                store=stores[name].folder,
            )
            for name, plan in plans.items()
        },
        corpus_folder=corpus.folder,
        corpus=run.config.corpus,
        seed=run.config.run.seed,
    )
    need = teacher_need(run, cluster, runs_model=says_before(run))
    at_once, most = teacher_actors(run, cluster, need)
    return cluster.run_units(
        partial(make_teacher_worker, job),
        units,
        need=need,
        workers=min(len(units), most or len(units)),
        at_once=at_once,
        deadline_seconds=section.unit_deadline_seconds,
        max_attempts=section.max_attempts,
        label=unit_name,
        on_incident=noted(run.root, unit_name, lambda unit: [events.subject("teacher", unit.teacher)]),
    )


def _note(run: Run, outcome: Outcome[Unit, Receipt], receipt: Receipt) -> None:
    """Keep what a unit cost, where a teacher ran."""
    unit = outcome.unit
    if not says_before(run):
        _log.info(
            "masked text: shard %d of %s (%s), %d tokens", unit.index, unit.teacher, unit.language, receipt.num_tokens
        )
        return
    costs.record(
        run.stores,
        costs.UnitCost(
            teacher=unit.teacher,
            language=unit.language,
            shard=unit.index,
            tokens=receipt.num_tokens,
            masked=receipt.num_masked,
            num_bytes=sum(table.num_bytes for table in receipt.tables.values()),
            rows=receipt.num_rows,
            seconds=outcome.seconds,
            attempts=outcome.attempts,
        ),
    )
    _log.info(
        "precompute: shard %d of %s (%s), %d tokens in %.1f s",
        unit.index,
        unit.teacher,
        unit.language,
        receipt.num_tokens,
        outcome.seconds,
    )


def make_teacher_worker(job: PrecomputeJob) -> TeacherWorker:
    """A worker in its own process; torch is imported there."""
    from orchestrator.teachers.worker import TeacherWorker

    return TeacherWorker(job)


def prepare_corpus(run: Run) -> Corpus:
    """The corpus of the run: read from its sources the first time, opened afterwards; for the run's driver alone."""
    folder = corpus_path(run)
    is_new = not is_read(folder)
    corpus = build_corpus(run.config.corpus, root=run.stores, seed=run.config.run.seed)
    if is_new:
        texts = sum(corpus.info(language, "train").num_texts for language in corpus.languages)
        _log.info("corpus: %d training texts of %d languages in %s", texts, len(corpus.languages), folder)
    return corpus


def corpus_path(run: Run) -> Place:
    """The folder of the run's corpus, there or not; DataError when a file of text is missing."""
    return corpus_folder(run.config.corpus, root=run.stores, seed=run.config.run.seed)


def is_read(folder: Place) -> bool:
    """Whether the corpus in `folder` is whole."""
    return (folder / "corpus.json").exists()


def known_corpus(run: Run) -> Corpus:
    """The corpus of the run, which is only opened; StoreError when it was not read yet."""
    folder = corpus_path(run)
    if not is_read(folder):
        raise StoreError("The text of this configuration was not read yet; run `orch precompute-teacher` first.")
    return open_corpus(folder)


def plan_stores(run: Run, corpus: Corpus) -> dict[str, StorePlan]:
    """Teacher -> its store as this configuration wants it, and which of its units are missing."""
    return {name: _plan(run, corpus, name) for name in run.teachers}


def open_stores(run: Run, teachers: Collection[str] | None = None) -> dict[str, Store]:
    """Stores that hold all that this setup listens to, or in the modes live and hybrid its masked text.

    Raises:
        StoreError: signals are missing; the text names the teacher and how many shards.
    """
    stores = {name: _find(run, name) for name in run.teachers if teachers is None or name in teachers}
    for name, store in stores.items():
        wanted = store if run.config.signals.mode == "live" else store.widened(run.teacher_request(name))
        if run.config.signals.mode == "hybrid" and wanted.request != store.request:
            raise StoreError(
                f"The store of teacher '{name}' is not made for what is asked now; run `orch precompute-teacher`."
            )
        waiting = [unit for unit in _missing(run, wanted) if _is_heard(run, unit, name)]
        if waiting:
            raise StoreError(
                f"Teacher '{name}' has not said all yet: {len(waiting)} of {len(store.units)} shards are missing or "
                f"lack tables (shard {waiting[0].index}: {', '.join(wanted.lacking(waiting[0]))}); "
                "run `orch precompute-teacher`."
            )
    return stores


def known_stores(run: Run) -> dict[str, Store]:
    """Stores that are there, complete or not; for those who look on, so without torch and whatever the number format.

    Raises:
        StoreError: the corpus was not read yet.
    """
    corpus = known_corpus(run)
    found = {}
    for name in run.teachers:
        section = run.config.teachers[name]
        plan = BatchPlan(section.tokens_per_batch, section.threads, "float32")
        wanted = _without_format(_fingerprint(run, corpus, name, plan))
        for path in matching(run.stores / "signals", f"{name}-{'[0-9a-f]' * 16}"):
            with suppress(OrchError):
                store = Store.open(path)
                if _without_format(store.fingerprint) == wanted:
                    found[name] = store
    return found


def _without_format(fingerprint: Fingerprint) -> dict[str, JSON]:
    return {name: part for name, part in fingerprint.parts.items() if name != "dtype"}


def _is_heard(run: Run, unit: Unit, teacher: str) -> bool:
    return unit.language in run.teacher_languages(teacher)


def _find(run: Run, name: str) -> Store:
    corpus = known_corpus(run)
    return find_store(run.stores / "signals", name, _fingerprint(run, corpus, name, batch_plan(run, name)))


def _create(run: Run, plan: StorePlan) -> Store:
    return Store.create(
        store_folder(run.stores / "signals", plan.teacher, plan.fingerprint),
        teacher=plan.teacher,
        fingerprint=plan.fingerprint,
        request=SignalRequest() if run.config.signals.mode == "live" else plan.request,
        codec=run.config.signals.hidden_codec,
        sizes=plan.sizes,
        languages=list(run.config.teachers[plan.teacher].languages),
        units=list(plan.units),
    )


def _plan(run: Run, corpus: Corpus, name: str) -> StorePlan:
    from orchestrator.teachers.units import plan_units

    section, sizes = run.config.teachers[name], teacher_sizes(run, name)
    request, plan = run.teacher_request(name), batch_plan(run, name)
    fingerprint = _fingerprint(run, corpus, name, plan)
    folder = store_folder(run.stores / "signals", name, fingerprint)
    try:
        store = Store.open(folder).widened(request)
    except StoreError:
        densities = _densities(corpus, section)
        tokens = _estimated_tokens(corpus, densities)
        tables = bytes_per_token(request, run.config.signals.hidden_codec, sizes, run.config.corpus.masking.probability)
        units = plan_units(
            corpus,
            name,
            section,
            tokens_per_character=densities,
            bytes_per_token=sum(tables.values()),
            shard_bytes=run.config.signals.shard_megabytes << 20,
            copies=run.config.corpus.masking.copies,
        )
        lacking = {unit.index: tuple(tables) for unit in units}
    else:
        tokens = _counted_tokens(run, store) or _estimated_tokens(corpus, _densities(corpus, section))
        request, units = store.request, store.units
        lacking = {index: tuple(tables) for index, tables in store.lacking_by_shard().items()}
    return StorePlan(name, request, corpus, fingerprint, plan, tokens, sizes, tuple(units), lacking)


def _counted_tokens(run: Run, store: Store) -> dict[str, int] | None:
    """As the store's receipts say, without which it is not known; [CLS] and [SEP] of each row are no text."""
    try:
        if len(store.receipts()) < len(store.units):
            return None
        copies = run.config.corpus.masking.copies
        return {name: (counts.tokens - 2 * counts.rows) // copies for name, counts in store.counts().items()}
    except StoreError:
        return None


def _estimated_tokens(corpus: Corpus, densities: Mapping[str, float]) -> dict[str, int]:
    return {
        language: round(corpus.info(language, "train").num_characters * density)
        for language, density in densities.items()
    }


def _densities(corpus: Corpus, section: TeacherSection) -> dict[str, float]:
    """Tokens per character of each language, from some of its texts."""
    from orchestrator.corpus.tokenise import tokens_per_character
    from orchestrator.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(section.tokenizer_path, revision=section.revision)
    return {
        language: tokens_per_character(corpus.sample(language, _SAMPLE_TEXTS), tokenizer=tokenizer)
        for language in section.languages
    }


def teacher_sizes(run: Run, name: str) -> TeacherSizes | None:
    """What of a teacher's model decides the columns of its signals; None for a tokenizer alone."""
    info = run.checkpoints[name]
    if info is None:
        return None
    return TeacherSizes(info.width, head_width=info.embedding_width, vocab_size=info.vocab_size)


def _fingerprint(run: Run, corpus: Corpus, name: str, plan: BatchPlan) -> Fingerprint:
    from orchestrator.teachers.fingerprint import fingerprint_parts

    parts = fingerprint_parts(
        run.config.teachers[name],
        corpus,
        run.config.corpus,
        seed=run.config.run.seed,
        codec=run.config.signals.hidden_codec,
        plan=plan,
    )
    return Fingerprint(parts)


def batch_plan(run: Run, name: str) -> BatchPlan:
    """How a teacher's rows are put together."""
    from orchestrator.models.devices import pick_device, pick_dtype

    section = run.config.teachers[name]
    return BatchPlan(
        tokens_per_batch=section.tokens_per_batch,
        threads=section.threads,
        dtype=pick_dtype(section.dtype, device=pick_device(section.device)),
    )
