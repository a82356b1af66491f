"""The table of contents of a sweep: share, train, evaluate, compare.

    share     text is read, teachers say what all cells ask, vocabularies are built; once for all that have it in common
    train     every cell with every seed is a unit of work in a process of its own, several at once; then those whose
              number of steps depends on how long others took
    evaluate  cells of one text are measured in one job, so that the teacher runs once
    compare   the table, after every start as far as there are figures

Each step does what is missing. A cell that fails is named, and stops no other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import floor
from pathlib import Path
from typing import TypeAlias

from orchestrator.cluster import Cluster, InProcess, Need, check_lasting, even_cpus, even_gpus, room
from orchestrator.errors import OrchError
from orchestrator.locking import lock_run
from orchestrator.logs import logging_to
from orchestrator.pipeline import LazyCluster, Stage, build_vocabularies, check_tables, compute_signals, driving
from orchestrator.progress import Progress
from orchestrator.report.comparison import Comparison
from orchestrator.steps.evaluating import evaluate_together, is_evaluated
from orchestrator.steps.signals import open_stores
from orchestrator.steps.training import missing_groups
from orchestrator.sweep.comparing import write_comparison
from orchestrator.sweep.opening import CellRun, Share, Sweep, settled
from orchestrator.sweep.progress import evaluation_progress, training_progress
from orchestrator.sweep.spec import TIMED_BY
from orchestrator.sweep.timing import decide_steps
from orchestrator.sweep.worker import make_cell_worker

_log = logging.getLogger(__name__)

#: Entered around work with something that says how far it is.
Watch: TypeAlias = Callable[[Callable[[], Sequence[Progress]]], AbstractContextManager[None]]
_NO_DEADLINE = float("inf")


@dataclass(frozen=True)
class Failure:
    """A cell that is not in the table, and why."""

    cell: CellRun
    reason: str


@dataclass(frozen=True)
class Room:
    """How many cells run at once, and what each of them has."""

    parallel: int
    need: Need

    @property
    def threads(self) -> int:
        """Of one cell."""
        return int(self.need.cpus)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left: its table, the page that shows it, and what is missing."""

    comparison: Comparison
    page: Path
    failures: tuple[Failure, ...]


def _unseen(_poll: Callable[[], Sequence[Progress]]) -> AbstractContextManager[None]:
    return nullcontext()


def _no_stage(_step: str, _run: object) -> AbstractContextManager[None]:
    return nullcontext()


def run_sweep(
    sweep: Sweep,
    cluster: LazyCluster,
    *,
    parallel: int | None = None,
    stage: Stage = _no_stage,
    watch: Watch = _unseen,
) -> SweepResult:
    """Do what is missing of a sweep, and compare its cells; what fails is named in the result."""
    for run in {one.run.config.evaluation.model_dump_json(): one.run for one in sweep.runs}.values():
        check_tables(run)
    failures: list[Failure] = []
    ready: list[CellRun] = []
    for share in sweep.shares:
        ready += _share(share, cluster, stage, failures)
    _train(sweep, [one for one in ready if not one.is_open], cluster, parallel, watch, failures)
    timed = {one.name for one in ready if one.is_open}
    if timed:
        sweep = _settle(sweep, timed, failures)
        ready = [one for one in sweep.runs if one.name in {other.name for other in ready}]
        late = [one for one in ready if one.name in timed and not one.is_open]
        _train(sweep, late, cluster, parallel, watch, failures)
    _evaluate(sweep, ready, cluster, watch, failures)
    comparison, page = write_comparison(sweep, {failure.cell.name: failure.reason for failure in failures})
    _log.info("comparison: %s", page)
    return SweepResult(comparison, page, tuple(failures))


@contextmanager
def driving_sweep(sweep: Sweep) -> Iterator[LazyCluster]:
    """Hold the sweep's lock, keep its log, and have a cluster for its work.

    Raises:
        ClusterError: another driver works on this sweep; the text names it.
    """
    check_lasting(str(sweep.root), key="root")
    cluster = LazyCluster(sweep.shares[0].joint)
    with lock_run(sweep.root), logging_to(sweep.root / "logs" / "orch.log"):
        try:
            yield cluster
        finally:
            cluster.close()


def _share(share: Share, cluster: LazyCluster, stage: Stage, failures: list[Failure]) -> list[CellRun]:
    """Everything that stands before training; returns the runs that can be trained."""
    try:
        with driving(share.joint):
            compute_signals(share.joint, cluster, stage=stage)
    except OrchError as error:
        failures += [Failure(one, str(error)) for one in share.members]
        return []
    ready = []
    for one in share.members:
        try:
            build_vocabularies(one.run)
            ready.append(one)
        except OrchError as error:
            failures.append(Failure(one, str(error)))
    return ready


def _train(
    sweep: Sweep,
    ready: Sequence[CellRun],
    cluster: LazyCluster,
    parallel: int | None,
    watch: Watch,
    failures: list[Failure],
) -> None:
    waiting = []
    for one in ready:
        try:
            if missing_groups(one.run, open_stores(one.run)):
                waiting.append(one)
        except OrchError as error:
            failures.append(Failure(one, str(error)))
    if not waiting:
        return
    share = share_out(sweep.runs, cluster.get(), parallel)  # whatever is done, so that threads stay the same
    workers = min(share.parallel, len(waiting))
    _log.info("training: %d cells, %d at a time with %s each", len(waiting), workers, share.need)
    with watch(lambda: training_progress(sweep)):
        for outcome in cluster.get().run_units(
            make_cell_worker,
            [with_threads(one, share.threads) for one in waiting],
            need=share.need,
            workers=workers,
            deadline_seconds=_NO_DEADLINE,
            max_attempts=waiting[0].run.config.cluster.max_attempts,
            label=lambda one: f"cell {one.name}",
            fresh_worker=True,
        ):
            reason = outcome.error or outcome.result
            if reason is not None:
                failures.append(Failure(outcome.unit, reason))
                _log.error("%s failed: %s", outcome.unit.name, reason)
            else:
                _log.info("%s is trained after %.0f s", outcome.unit.name, outcome.seconds)


def _settle(sweep: Sweep, timed: Collection[str], failures: list[Failure]) -> Sweep:
    """Decide how long those are trained that wait for the times of others; what cannot be decided is named."""
    runs = {(one.cell, one.seed): one for one in sweep.runs}
    for one in sweep.runs:
        if one.name in timed:
            reference, slow = runs[sweep.reference, one.seed], runs[TIMED_BY, one.seed]
            try:
                decide_steps(sweep.root, one.seed, reference=(reference.cell, reference.run), other=slow.run)
            except OrchError as error:
                failures.append(Failure(one, str(error)))
    return settled(sweep)


def share_out(runs: Sequence[CellRun], cluster: Cluster, parallel: int | None) -> Room:
    """As many cells at once as there are cores, or as `parallel` and the configuration's own wishes allow."""
    section, threads = runs[0].run.config.cluster, max(one.run.config.training.threads or 1 for one in runs)
    machines = cluster.machines
    wished = max(float(threads), section.cpus_per_student or 1.0)
    most = min(parallel or len(runs), len(runs), max(1, room(machines, Need(wished))))
    most = 1 if isinstance(cluster, InProcess) else most
    largest = max(1, *(floor(machine.cpus) for machine in machines))
    cpus = min(largest, max(1, floor(wished), floor(even_cpus(machines, most))))
    gpus = section.gpus_per_student if section.gpus_per_student is not None else even_gpus(machines, most)
    spread = section.student_placement == "spread"
    return Room(most, Need(float(cpus), gpus, section.resources_per_student, spread))


def with_threads(one: CellRun, threads: int) -> CellRun:
    """The run with as many threads as it has cores, where its configuration says nothing."""
    config = one.run.config
    training = config.training.model_copy(update={"threads": config.training.threads or threads})
    expanded = replace(one.run.expanded, config=config.model_copy(update={"training": training}))
    return replace(one, run=replace(one.run, expanded=expanded))


def _evaluate(
    sweep: Sweep, ready: Sequence[CellRun], cluster: LazyCluster, watch: Watch, failures: list[Failure]
) -> None:
    """Cells of one text and one way to measure in one job each."""
    failed = {failure.cell.name for failure in failures}
    for share in sweep.shares:
        jobs: dict[str, list[CellRun]] = {}
        for one in share.members:
            if one in ready and one.name not in failed:
                jobs.setdefault(one.run.config.evaluation.model_dump_json(), []).append(one)
        for members in jobs.values():
            waiting = [one.run for one in members if not is_evaluated(one.run)]
            try:
                with watch(partial(evaluation_progress, waiting)) if waiting else nullcontext():
                    evaluate_together([one.run for one in members], cluster.get)
            except OrchError as error:
                failures += [Failure(one, f"it could not be measured: {error}") for one in members]
