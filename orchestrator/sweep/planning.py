"""What a sweep will compute and take, before it runs: its cells, what they share, and about how long."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from orchestrator.pipeline import read_text
from orchestrator.planning import (
    StudentPlan,
    TeacherPlan,
    gemm_flops,
    make_plan,
    plan_students,
    reached_flops,
)
from orchestrator.scaling.times import STUDENT_EFFICIENCY
from orchestrator.steps.exports import student_receipt
from orchestrator.storage import free_bytes
from orchestrator.sweep.opening import CellRun, Share, Sweep


@dataclass(frozen=True)
class CellPlan:
    """One row: a cell with all its seeds."""

    name: str
    sets: str  # keys and values
    students: tuple[StudentPlan, ...]  # of its first seed
    is_open: bool  # whether a seed's number of steps is yet to be decided
    done: int  # runs that are trained
    runs: int
    seconds: float  # of training that is left, of all seeds together
    is_measured: bool


@dataclass(frozen=True)
class SharePlan:
    """What the runs of one text have in common."""

    seed: int
    cells: tuple[str, ...]
    teachers: tuple[TeacherPlan, ...]


@dataclass(frozen=True)
class SweepPlan:
    """Everything that `orch sweep --plan` shows."""

    root: Path
    reference: str
    cells: tuple[CellPlan, ...]
    shares: tuple[SharePlan, ...]
    parallel: int
    free_bytes: int | None

    @property
    def teacher_seconds(self) -> float:
        """Of all passes, one after another."""
        return sum(teacher.time.seconds for share in self.shares for teacher in share.teachers)

    @property
    def training_seconds(self) -> float:
        """Of all cells, `parallel` of them at a time."""
        return sum(cell.seconds for cell in self.cells) / self.parallel

    @property
    def missing_bytes(self) -> float:
        """Of signals that are yet to be stored."""
        return sum(teacher.missing_bytes for share in self.shares for teacher in share.teachers)


def make_sweep_plan(sweep: Sweep, *, parallel: int | None = None) -> SweepPlan:
    """Estimate a sweep on this machine; reads the text if nobody did, and runs nothing else.

    Cells that have not begun are priced by the FLOP/s that others reached, and without any by a matrix product.
    """
    cores = 1 if sweep.address == "in-process" else len(os.sched_getaffinity(0))
    side_by_side = min(parallel or cores, cores, len(sweep.runs))
    shares = tuple(map(_share, sweep.shares))
    reached = [flops for one in sweep.runs for flops in reached_flops(one.run)]

    def flops() -> float:
        return fmean(reached) if reached else gemm_flops() * STUDENT_EFFICIENCY / side_by_side

    return SweepPlan(
        root=sweep.root,
        reference=sweep.reference,
        cells=tuple(
            _cell([one for one in sweep.runs if one.cell == cell.name], cell.words, flops) for cell in sweep.cells
        ),
        shares=shares,
        parallel=side_by_side,
        free_bytes=free_bytes(sweep.root),
    )


def _share(share: Share) -> SharePlan:
    read_text(share.joint)
    names = tuple(dict.fromkeys(one.cell for one in share.members))
    return SharePlan(share.joint.config.run.seed, names, make_plan(share.joint).teachers)


def _cell(runs: list[CellRun], sets: str, flops: Callable[[], float]) -> CellPlan:
    plans = [plan_students(one.run, flops=flops) for one in runs]
    times = [student.time for plan in plans for student in plan]
    return CellPlan(
        name=runs[0].cell,
        sets=sets,
        is_open=any(one.is_open for one in runs),
        students=plans[0],
        done=sum(map(_is_trained, runs)),
        runs=len(runs),
        seconds=sum(time.seconds for time in times),
        is_measured=all(time.is_measured or not time.seconds for time in times),
    )


def _is_trained(one: CellRun) -> bool:
    folder = one.run.students_folder
    return all(student_receipt(folder / student.name) is not None for student in one.run.expanded.students)
