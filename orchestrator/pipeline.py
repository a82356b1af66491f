"""The table of contents of a run: which steps it has, what each needs, and what is already done.

    corpus -> precompute -> build_vocabularies -> train -> evaluate -> write_report

Each step reads what the one before it left on disk, does what is missing, and leaves files. Run it again after any
stop: what is done is recognised by the fingerprint of its inputs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import yaml

from orchestrator import costs
from orchestrator.cluster import Cluster, Outcome, open_cluster
from orchestrator.config.setups import GroupSpec, StudentSpec
from orchestrator.corpus.store import Corpus, build_corpus
from orchestrator.errors import ClusterError, ConfigError, StoreError
from orchestrator.locking import lock_run
from orchestrator.run import Run
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.store import Store, find_store
from orchestrator.storage import append_line, read_bytes, write_bytes

_FOREVER = 10 * 365 * 24 * 3600.0


class LazyCluster:
    """A cluster that starts when the first work needs it, so that a run with nothing to do starts none."""

    def __init__(self, run: Run) -> None:
        self._run = run
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
        return self._cluster

    def close(self) -> None:
        """Stop it, if it runs."""
        self._stack.close()


@contextmanager
def driving(run: Run) -> Iterator[LazyCluster]:
    """Hold the run's lock, write its expanded configuration, and give it a cluster for when it needs one.

    Raises:
        ClusterError: another driver works on this run; the text names it.
    """
    with lock_run(run.root):
        write_bytes(run.root / "config.yaml", _as_yaml(run).encode())
        cluster = LazyCluster(run)
        try:
            yield cluster
        finally:
            cluster.close()


def _as_yaml(run: Run) -> str:
    tree = run.config.model_dump(mode="json", exclude_none=True)
    tree["run"]["setup"] = run.expanded.setup
    tree["students_of_this_setup"] = {
        student.name: {"languages": list(student.languages), "teachers": student.teachers, "role": student.role}
        for student in run.expanded.students
    }
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def run_all(run: Run, cluster: LazyCluster) -> Path:
    """Every step in order; returns the report's page."""
    precompute(run, cluster)
    build_vocabularies(run)
    train(run, cluster)
    evaluate(run, cluster)
    return write_report(run)
