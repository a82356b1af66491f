"""Step: fine-tune models of a run on a task in one language, test them in others, keep the figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.cluster import Cluster
from orchestrator.config.base import nearest
from orchestrator.config.setups import BASELINE_SUFFIX, StudentSpec
from orchestrator.config.transfer import TransferSection
from orchestrator.errors import ClusterError, ConfigError, DataError, StoreError
from orchestrator.records import TransferRow
from orchestrator.run import Run
from orchestrator.steps.exports import student_receipt
from orchestrator.steps.needs import even_need
from orchestrator.storage import append_line, write_bytes
from orchestrator.transfer.job import Cell, Student, TransferModel
from orchestrator.transfer.modes import DEFAULT_MODES, parse_mode
from orchestrator.transfer.scoring import MAIN_METRIC
from orchestrator.transfer.state import TransferState
from orchestrator.transfer.summary import Line, summarise

if TYPE_CHECKING:
    from orchestrator.transfer.tasks import Task
    from orchestrator.transfer.worker import TransferWorker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransferRequest:
    """What `orch transfer` was asked for; what is empty means all there is, or the students of the setup."""

    source: str
    tasks: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    teacher: str | None = None
    num_seeds: int = 1


@dataclass(frozen=True)
class TaskPlan:
    """One task and its cells by digest; `missing` are those without figures."""

    task: Task
    cells: Mapping[str, Cell]
    missing: Mapping[str, Cell]


def rows_path(run: Run) -> Path:
    """One line per figure."""
    return run.root / "transfer" / "metrics.jsonl"


def plan_path(run: Run) -> Path:
    """The cells that were asked for last."""
    return run.root / "transfer" / "plan.json"


def plan_transfer(run: Run, request: TransferRequest) -> list[TaskPlan]:
    """Every cell that is asked for, checked; nothing is trained.

    Raises:
        ConfigError, DataError, StoreError: a name is unknown, a student not trained, a table wrong.
    """
    from orchestrator.transfer.cells import cell_digest, check_cell, done_cells, read_rows
    from orchestrator.transfer.tasks import read_task

    sections = run.config.transfer.tasks
    if not sections:
        raise ConfigError(
            "There are no tasks: describe one under transfer.tasks in the configuration (docs/transfer.md)."
        )
    for name in request.tasks:
        if name not in sections:
            raise ConfigError(f"--task {name}: no such task under transfer.tasks; {nearest(name, list(sections))}")
    for name in request.modes:
        parse_mode(name)
    rows = read_rows(rows_path(run))
    plans = []
    for name in request.tasks or tuple(sections):
        task = read_task(sections[name], name=name, source=request.source)
        cells = {cell_digest(cell, task, run.config.transfer): cell for cell in _cells(run, request, task)}
        for cell in cells.values():
            check_cell(cell)
        done = done_cells(rows, task)
        plans.append(TaskPlan(task, cells, {digest: cell for digest, cell in cells.items() if digest not in done}))
    return plans


def begin(run: Run, plans: Sequence[TaskPlan]) -> TransferState:
    """How far the plans are before anything is done."""
    from orchestrator.transfer.measuring import plan_trainings

    cells = sum(len(plan.cells) for plan in plans)
    trainings = sum(len(plan_trainings(plan.missing)) for plan in plans)
    return TransferState(
        cells_done=cells - sum(len(plan.missing) for plan in plans),
        cells_total=cells,
        steps_total=run.config.transfer.steps * trainings,
    )


def transfer(run: Run, plans: Sequence[TaskPlan], cluster_of: Callable[[], Cluster], *, state: TransferState) -> None:
    """Measure what is missing, on the cluster if one is joined, else in this process.

    Figures of a cell are in the file as soon as it is measured, on a cluster as soon as its fine-tuning is done.

    Raises:
        ClusterError: cells were given up; all the others are measured.
    """
    from orchestrator.transfer.measuring import measure

    write_bytes(plan_path(run), json.dumps(sorted(digest for plan in plans for digest in plan.cells)).encode())
    options = run.config.transfer
    write = partial(_write, rows_path(run))
    if run.address not in (None, "in-process"):
        _measure_on(run, plans, cluster_of, state=state, write=write)
        return
    for plan in plans:
        if plan.missing:
            _log.info("transfer: %d of %d cells of %s", len(plan.missing), len(plan.cells), plan.task.name)
            measure(plan.missing, plan.task, options, state=state, write=write)


def _measure_on(
    run: Run,
    plans: Sequence[TaskPlan],
    cluster_of: Callable[[], Cluster],
    *,
    state: TransferState,
    write: Callable[[TransferRow], None],
) -> None:
    """Fine-tunings side by side, as many as there is room for."""
    from orchestrator.transfer.measuring import plan_trainings
    from orchestrator.transfer.worker import transfer_units

    units = [unit for plan in plans for unit in transfer_units(plan.missing, plan.task)]
    if not units:
        return
    cluster, options = cluster_of(), run.config.transfer
    need = even_need(run, cluster, len(units))
    threads = options.threads or max(1, int(need.cpus))
    state.doing = f"{len(units)} fine-tunings on the cluster"
    lost = []
    for outcome in cluster.run_units(
        partial(make_transfer_worker, options.model_copy(update={"threads": threads})),
        units,
        need=need,
        workers=len(units),
        deadline_seconds=float("inf"),
        max_attempts=run.config.cluster.max_attempts,
        label=lambda unit: f"a fine-tuning on task {unit.task}",
    ):
        if outcome.error is not None:
            lost.append(outcome.error)
            continue
        for row in outcome.result or ():
            write(row)
        state.cells_done += len(outcome.unit.cells)
        state.steps_done += options.steps * len(plan_trainings(outcome.unit.cells))
    if lost:
        raise ClusterError(
            f"{len(lost)} of {len(units)} fine-tunings were given up, the first because {lost[0]}. All others are "
            "measured; mend that and run the same command again."
        )


def make_transfer_worker(options: TransferSection) -> TransferWorker:
    """A worker in its own process; torch is imported there."""
    from orchestrator.transfer.worker import TransferWorker

    return TransferWorker(options)


def _write(path: Path, row: TransferRow) -> None:
    append_line(path, json.dumps(asdict(row), ensure_ascii=False))


def transfer_lines(run: Run, plans: Sequence[TaskPlan]) -> list[Line]:
    """The table of the cells of `plans`, as far as they are measured."""
    from orchestrator.transfer.cells import read_rows

    rows = {(row.cell, row.metric): row for row in read_rows(rows_path(run))}
    asked = [digest for plan in plans for digest in plan.cells]
    by_cell: dict[str, list[TransferRow]] = {digest: [] for digest in asked}
    for (digest, _), row in rows.items():
        if digest in by_cell:
            by_cell[digest].append(row)
    metrics = {plan.task.name: MAIN_METRIC[plan.task.kind] for plan in plans}
    return summarise([row for found in by_cell.values() for row in found], metrics=metrics)


def _cells(run: Run, request: TransferRequest, task: Task) -> list[Cell]:
    for target in request.targets:
        if target not in task.test:
            raise DataError(
                f"--target {target}: task '{task.name}' has no test sentences in it; {nearest(target, list(task.test))}"
            )
    seeds = range(run.config.run.seed, run.config.run.seed + request.num_seeds)
    cells = []
    for model in _models(run, request, task):
        targets = request.targets or tuple(language for language in model.students if language in task.test)
        known = [name for name in DEFAULT_MODES if name != "distil" or model.teacher is not None]
        for name in request.modes or known:
            mode = parse_mode(name)
            cells += [
                Cell.plan(model, mode, source=request.source, target=target, seed=seed)
                for seed in seeds
                for target in targets
            ]
    return cells


def _models(run: Run, request: TransferRequest, task: Task) -> list[TransferModel]:
    listener = _teacher_named(run, request.teacher) if request.teacher is not None else None
    known = _known_students(run)
    setup = run.expanded.setup
    default = setup if setup in known else f"{setup}/{run.expanded.students[0].name}"
    models = []
    for name in request.models or (default,):
        full = name if name in known else f"{setup}/{name}"
        if full in known:
            models.append(_students(run, full, known[full], request.source, listener))
        elif name in run.config.teachers:
            section = run.config.teachers[name]
            models.append(TransferModel(name, "teacher", dict.fromkeys(section.languages, _teacher_named(run, name))))
        elif Path(name).is_dir():
            languages = dict.fromkeys([request.source, *task.test])
            models.append(TransferModel(name, "student", dict.fromkeys(languages, Student(name, name)), listener))
        else:
            names = [*known, *run.config.teachers]
            raise ConfigError(f"--model {name}: neither a model of this run nor a folder; {nearest(name, names)}")
    return models


def _known_students(run: Run) -> dict[str, tuple[StudentSpec, ...]]:
    """Every student as SETUP/STUDENT, and all of a setup that has several as SETUP, their twins as SETUP-no-teacher."""
    setup, students = run.expanded.setup, run.expanded.students
    known: dict[str, tuple[StudentSpec, ...]] = {f"{setup}/{student.name}": (student,) for student in students}
    for role, name in (("student", setup), ("baseline", setup + BASELINE_SUFFIX)):
        members = tuple(student for student in students if student.role == role)
        if len(members) > 1:
            known[name] = members
    return known


def _students(
    run: Run, name: str, specs: tuple[StudentSpec, ...], source: str, listener: Student | None
) -> TransferModel:
    """Each language is served by the first student that has it."""
    role: Literal["student", "baseline"] = "baseline" if specs[0].role == "baseline" else "student"
    serving: dict[str, Student] = {}
    teacher = listener
    for spec in specs:
        folder = run.students_folder / spec.name
        if student_receipt(folder) is None:
            raise StoreError(f"Student '{spec.name}' is not trained yet; run `orch train-students` first.")
        for language in spec.languages:
            serving.setdefault(language, Student(str(folder / "final"), str(folder / "final")))
        answering = spec.teachers.get(source)
        if teacher is None and answering is not None and run.config.teachers[answering].model is not None:
            teacher = _teacher_named(run, answering)
    return TransferModel(name, role, serving, teacher)


def _teacher_named(run: Run, name: str) -> Student:
    if name not in run.config.teachers:
        if Path(name).is_dir():
            return Student(name, name)
        raise ConfigError(
            f"--teacher {name}: neither a teacher nor a folder; {nearest(name, list(run.config.teachers))}"
        )
    section = run.config.teachers[name]
    if section.model is None:
        raise ConfigError(f"teachers.{name}: it is a tokenizer alone, and cannot be fine-tuned; name another.")
    return Student(section.model, section.tokenizer_path, section.revision)
