"""The table of contents of a run: which steps it has, in which order, and what holds them together.

    read_text -> compute_signals -> build_vocabularies -> train -> evaluate -> write_report

Each step (a file in `steps/`) reads what the one before it left on disk, does what is missing, and leaves files. Run it
again after any stop: what is done is recognised by the fingerprint of its inputs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TypeAlias

from orchestrator import __version__, events
from orchestrator.cluster import Cluster, check_lasting, open_cluster
from orchestrator.config.writing import as_yaml
from orchestrator.locking import lock_run
from orchestrator.logs import logging_to
from orchestrator.run import Run
from orchestrator.steps import vocabularies
from orchestrator.steps.evaluating import check_tables, evaluate
from orchestrator.steps.reporting import write_report
from orchestrator.steps.sentences import precompute_sentences
from orchestrator.steps.signals import corpus_path, is_read, precompute, prepare_corpus
from orchestrator.steps.training import train
from orchestrator.steps.vocabularies import BuiltVocabulary
from orchestrator.storage import write_bytes

_log = logging.getLogger(__name__)

#: Entered around each step with its name, to show progress.
Stage: TypeAlias = Callable[[str, Run], AbstractContextManager[None]]


def _unseen(_step: str, _run: Run) -> AbstractContextManager[None]:
    return nullcontext()


def run_all(run: Run, cluster: LazyCluster, *, stage: Stage = _unseen) -> Path:
    """Every step in order; returns the report's page."""
    check_tables(run)
    compute_signals(run, cluster, stage=stage)
    with stage("vocabulary", run):
        build_vocabularies(run)
    with stage("train", run):
        train(run, cluster.get)
    with stage("evaluate", run):
        evaluate(run, cluster.get)
    page = write_report(run)
    _log.info("report: %s", page)
    return page


def compute_signals(run: Run, cluster: LazyCluster, *, stage: Stage = _unseen) -> None:
    """Read the corpus, then let the teachers say what is missing."""
    with _alone_with_stores(run):
        _read(run, stage)
        with stage("precompute", run):
            precompute(run, cluster.get)
            precompute_sentences(run, cluster.get)


def build_vocabularies(run: Run) -> list[BuiltVocabulary]:
    """Build the vocabularies that are missing."""
    with _alone_with_stores(run):
        return vocabularies.build_vocabularies(run)


def read_text(run: Run, *, stage: Stage = _unseen) -> None:
    """Read the corpus if nobody did, so that `orch plan` knows what there is; only then the run is locked."""
    if not is_read(corpus_path(run)):
        with lock_run(run.stores):
            _read(run, stage)


def _alone_with_stores(run: Run) -> AbstractContextManager[None]:
    """Hold the lock of stores that other runs may share; a run's own are behind its own lock."""
    return nullcontext() if run.stores == run.root else lock_run(run.stores)


def _read(run: Run, stage: Stage) -> None:
    if not is_read(corpus_path(run)):
        with stage("corpus", run):
            prepare_corpus(run)


def _unannounced(_cluster: Cluster) -> None:
    pass


class LazyCluster:
    """A cluster that starts when the first work needs it, so that a run with nothing to do starts none."""

    def __init__(self, run: Run, *, on_open: Callable[[Cluster], None] = _unannounced) -> None:
        self._run, self._on_open = run, on_open
        self._stack = ExitStack()
        self._cluster: Cluster | None = None

    def get(self) -> Cluster:
        """The cluster, started now if it was not."""
        if self._cluster is None:
            section = self._run.config.cluster
            self._cluster = self._stack.enter_context(
                open_cluster(
                    self._run.address,
                    object_store_bytes=section.object_store_megabytes << 20,
                    log_folder=self._run.root / "logs",
                )
            )
            links = self._cluster.links
            events.record(self._run.root, events.Event("joined", links=links))
            _log.info("cluster: %s", "; ".join(f"{name} {' '.join(places)}" for name, places in links.items()))
            self._on_open(self._cluster)
        return self._cluster

    def close(self) -> None:
        """Stop it, if it runs."""
        self._stack.close()


@contextmanager
def lazy_cluster(run: Run, *, on_open: Callable[[Cluster], None] = _unannounced) -> Iterator[LazyCluster]:
    """A cluster for the length of the block; `on_open` is told when it starts."""
    cluster = LazyCluster(run, on_open=on_open)
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def driving(run: Run) -> Iterator[None]:
    """Hold the run's lock, keep its log, and leave its expanded configuration in its folder.

    Raises:
        ClusterError: another driver works on this run; the text names it. Or its folder would go with a Ray job.
    """
    check_lasting(run.config.run.root, key="run.root")
    check_lasting(run.config.run.stores or run.config.run.root, key="run.stores")
    with lock_run(run.root), logging_to(run.root / "logs" / "orch.log"):
        _log.info("orch %s: %s", __version__, " ".join(sys.argv[1:]))
        write_bytes(run.root / "config.yaml", as_yaml(run.expanded).encode())
        with _chronicled(run.root):
            yield


@contextmanager
def _chronicled(root: Path) -> Iterator[None]:
    """Note when this driver starts, when it ends, and what ended it."""
    events.record(root, events.Event("started", unit=" ".join(["orch", *sys.argv[1:]])))
    try:
        yield
    except KeyboardInterrupt:
        events.record(root, events.Event("ended", error="it was stopped by Ctrl-C or SIGTERM"))
        raise
    except BaseException as error:
        events.record(root, events.Event("ended", error=str(error) or type(error).__name__))
        raise
    events.record(root, events.Event("ended"))


__all__ = [
    "LazyCluster",
    "Stage",
    "build_vocabularies",
    "check_tables",
    "compute_signals",
    "driving",
    "evaluate",
    "lazy_cluster",
    "read_text",
    "run_all",
    "train",
    "write_report",
]
