"""Step: read the corpus once, and let each teacher say what the objectives need, shard by shard, on the cluster."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cluster import Cluster
from orchestrator.corpus.store import Corpus, build_corpus
from orchestrator.errors import ClusterError
from orchestrator.records import SignalRequest, Unit
from orchestrator.run import Run
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.store import Store, find_store
from orchestrator.storage import append_line

if TYPE_CHECKING:
    from orchestrator.teachers.worker import PrecomputeJob, TeacherWorker


def precompute(run: Run, cluster_of: Callable[[], Cluster]) -> None:
    """Compute the shards that some student of this setup listens to and that are missing.

    A unit that keeps losing its worker is left out and named at the end; all others are done first.
    """
