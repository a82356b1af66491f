"""The worker that trains one cell with one seed in its own process."""

from __future__ import annotations

import logging

from orchestrator.errors import OrchError
from orchestrator.pipeline import driving, lazy_cluster, train
from orchestrator.sweep.opening import CellRun

_log = logging.getLogger(__name__)


class CellWorker:
    """Runs cells; a plain class that the cluster makes an actor."""

    def run(self, cell: CellRun) -> str | None:
        """Train the students of a cell to their end. Returns why that failed: other cells have no part in it."""
        try:
            with driving(cell.run), lazy_cluster(cell.run) as cluster:
                train(cell.run, cluster.get)
        except OrchError as error:
            return str(error)
        except Exception as error:  # a defect, whose traceback is in the log of the cell
            _log.debug("%s failed", cell.name, exc_info=error)
            return f"{type(error).__name__}: {error} (see {cell.run.root / 'logs' / 'orch.log'})"
        return None


def make_cell_worker() -> CellWorker:
    """A worker in its own process."""
    return CellWorker()
