"""A worker that says in its log what it does, and counts it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Generic

from orchestrator import meters
from orchestrator.cluster.units import R, U, Worker
from orchestrator.logs import working_on

_log = logging.getLogger(__name__)


class Watched(Generic[U, R]):
    """Does what the worker does."""

    def __init__(self, worker: Worker[U, R], label: Callable[[U], str]) -> None:
        self._worker, self._label = worker, label

    def run(self, unit: U) -> R:
        """Name the unit in all that is logged meanwhile; that it begins is what a process that dies leaves behind."""
        started, outcome = time.monotonic(), "failed"
        with working_on(self._label(unit)):
            _log.debug("begins")
            try:
                result = self._worker.run(unit)
                outcome = "done"
                return result
            except Exception:
                _log.debug("failed", exc_info=True)
                raise
            finally:
                seconds = time.monotonic() - started
                _log.debug("%s after %.2f s", outcome, seconds)
                meters.add("units", 1, {"outcome": outcome})
                meters.add("unit_seconds", seconds)


def watched(
    make_worker: Callable[[], Worker[U, R]],
    label: Callable[[U], str],
    *,
    prepare: Callable[[], None] | None = None,
) -> Callable[[], Watched[U, R]]:
    """`make_worker` for a worker that is watched; in its process `prepare` comes first."""
    return partial(_make, make_worker, label, prepare)


def _make(
    make_worker: Callable[[], Worker[U, R]], label: Callable[[U], str], prepare: Callable[[], None] | None
) -> Watched[U, R]:
    if prepare is not None:
        prepare()
    return Watched(make_worker(), label)
