"""What is done and what is under way, read from the files of a run: for progress bars and for `orch status`.

Nothing here writes, locks, or imports torch, so that it can be asked often and from anywhere.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator import costs, events
from orchestrator.errors import OrchError
from orchestrator.events import History, Trouble
from orchestrator.locking import Driver, driver_of, writer_of
from orchestrator.records import Unit
from orchestrator.run import Run
from orchestrator.storage import Place, matching, parse_json, read_bytes
from orchestrator.transfer.state import TransferState

#: The detail of work that nothing is there of.
NOT_STARTED = "not started"

_NO_TROUBLE = Trouble()
_TAIL_BYTES = 8192
_MAX_BYTES = 1 << 28
#: Work whose last sign of life is older than this, or than three times what lies between two, is not under way.
_STALE_SECONDS = 120.0


@dataclass(frozen=True)
class Progress:
    """One line of the display: `done` of `total` units of one piece of work, and what befell it so far."""

    step: str
    name: str
    done: int
    total: int
    unit: str
    tokens_per_second: float | None = None
    detail: str = ""
    seconds_left: float | None = None
    rows: int | None = None  # done; masked copies of texts, before packing joins them
    rows_total: int | None = None
    tokens: int | None = None  # done, as far as somebody counted
    trouble: Trouble = _NO_TROUBLE

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.done >= self.total


@dataclass(frozen=True)
class Status:
    """Everything that `orch status` shows."""

    work: tuple[Progress, ...]
    history: History
    driver: Driver | None
    stores: str  # where what the teachers said lies, which other runs may share
    writer: str | None  # who writes there


class StatusPoll:
    """The state of a run; finds its stores once, so it may be asked often."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._teachers = PrecomputePoll(run)

    def __call__(self) -> Status:
        """The state now: every piece of work of the setup, in the order of the pipeline."""
        run, history = self._run, events.history(events.read(self._run.root))
        work = [
            corpus_progress(run),
            *self._teachers(),
            *stored_progress(run),
            *vocabulary_progress(run),
            *training_progress(run),
            evaluation_progress(run),
            *measured_transfer(run),
            _report(run),
        ]
        troubled = tuple(replace(one, trouble=history.troubles.get(_subject(one), _NO_TROUBLE)) for one in work)
        return Status(troubled, history, driver_of(run.root), str(run.stores), writer_of(run.stores))


def _subject(one: Progress) -> str:
    """How events call whom it is about."""
    match one.step:
        case "train":
            return events.subject("student", one.name)
        case "evaluate":
            return events.subject("evaluation", one.name)
        case "precompute" | "mask":
            return events.subject("teacher", one.name)
    return ""


def corpus_progress(run: Run) -> Progress:
    """Languages × splits that are read, by the folders that are there; the one under way with its size."""
    from orchestrator.steps.signals import corpus_path, is_read

    total = 2 * len(run.config.corpus.languages)
    try:
        folder = corpus_path(run)
    except OrchError as error:
        return Progress("corpus", "text", 0, total, "parts", detail=str(error))
    if is_read(folder):
        return Progress("corpus", "text", total, total, "parts")
    begun = sorted(folder.glob("*/*"), key=lambda path: path.stat().st_ctime) if isinstance(folder, Path) else []
    if not begun:  # of an object store nothing is seen before it is whole
        return Progress("corpus", "text", 0, total, "parts", detail=NOT_STARTED)
    last = begun[-1]
    megabytes = sum(file.stat().st_size for file in last.iterdir()) / 1e6
    detail = f"{last.parent.name} {last.name.replace('_', '-')}, {megabytes:,.0f} MB"
    return Progress("corpus", "text", len(begun) - 1, total, "parts", detail=detail)


class PrecomputePoll:
    """Shards of each teacher by the names of their receipts; finds each store once, so it may be asked often.

    Teachers that answer while students train leave masked text in them before that.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._step = "precompute" if run.config.signals.mode == "cache" else "mask"
        self._units: dict[str, tuple[Place, dict[str, Unit]]] = {}  # teacher -> receipts' folder, units by their names

    def __call__(self) -> list[Progress]:
        """The state now."""
        if len(self._units) < len(self._run.teachers):
            self._find()
        spent = costs.read(self._run.stores)
        return [self._teacher(name, [cost for cost in spent if cost.teacher == name]) for name in self._run.teachers]

    def _find(self) -> None:
        from orchestrator.steps.signals import known_stores

        with suppress(OrchError):
            for name, store in known_stores(self._run).items():
                languages = self._run.teacher_languages(name)
                paths = {store.receipt_path(unit.index): unit for unit in store.units if unit.language in languages}
                if paths:
                    self._units[name] = (next(iter(paths)).parent, {path.name: unit for path, unit in paths.items()})

    def _teacher(self, name: str, spent: list[costs.UnitCost]) -> Progress:
        if name not in self._units:
            return Progress(self._step, name, 0, 1, "shards", detail=NOT_STARTED)
        folder, units = self._units[name]
        there = {path.name for path in matching(folder, "*")}
        done = [unit for receipt, unit in units.items() if receipt in there]
        indices, copies = {unit.index for unit in done}, self._run.config.corpus.masking.copies
        line = Progress(
            self._step,
            name,
            len(done),
            len(units),
            "shards",
            rows=copies * sum(unit.num_texts for unit in done),
            rows_total=copies * sum(unit.num_texts for unit in units.values()),
            tokens=sum(cost.tokens for cost in spent if cost.shard in indices) if spent else None,
        )
        rate = costs.tokens_per_second(spent)
        if rate is None or line.is_done or _is_stale(spent[-1].finished, spent[-1].seconds):
            return line
        per_shard = sum(cost.tokens for cost in spent) / len(spent)
        return replace(line, tokens_per_second=rate, seconds_left=(line.total - line.done) * per_shard / rate)


def stored_progress(run: Run) -> list[Progress]:
    """In hybrid mode, the shards of each teacher that hold all that it was asked; nothing in the others."""
    from orchestrator.steps.signals import known_stores

    found = []
    with suppress(OrchError):
        for name, store in known_stores(run).items() if run.config.signals.mode == "hybrid" else ():
            languages = run.teacher_languages(name)
            total = sum(unit.language in languages for unit in store.units)
            waiting = sum(unit.language in languages for unit in store.widened(run.teacher_request(name)).missing())
            found.append(Progress("store", name, total - waiting, total, "shards", detail="while students train"))
    return found


def vocabulary_progress(run: Run) -> list[Progress]:
    """The vocabulary of each student that has one of its own."""
    from orchestrator.steps.signals import known_stores
    from orchestrator.steps.vocabularies import vocabulary_folder

    found = []
    stores = {}
    with suppress(OrchError):
        stores = known_stores(run)
    for student in run.expanded.students:
        if student.name == student.origin:
            known = set(student.teachers.values()) <= stores.keys()
            done = known and vocabulary_folder(run, student, stores).exists()
            detail = "" if done else NOT_STARTED
            found.append(Progress("vocabulary", student.name, int(done), 1, "built", detail=detail))
    return found


def training_progress(run: Run) -> list[Progress]:
    """Steps of each student, as the last lines of its metrics.jsonl say."""
    from orchestrator.steps.exports import student_receipt

    return [
        _student(
            run,
            student.name,
            shows_phase=len(student.phases) > 1,
            is_exported=student_receipt(run.students_folder / student.name) is not None,
        )
        for student in run.expanded.students
    ]


def _student(run: Run, name: str, *, shows_phase: bool, is_exported: bool) -> Progress:
    total = run.config.training.steps
    path = run.students_folder / name / "metrics.jsonl"
    rows = last_rows(path)
    if is_exported:
        return Progress("train", name, total, total, "steps", tokens=int(_number(rows[-1], "tokens")) if rows else None)
    if not rows:
        return Progress("train", name, 0, total, "steps", detail=NOT_STARTED)
    step, tokens, rate = (_number(rows[-1], key) for key in ("step", "tokens", "tokens_per_second"))
    terms = rows[-1].get("terms")
    detail = " ".join(f"{name} {value:.3f}" for name, value in terms.items()) if isinstance(terms, dict) else ""
    if shows_phase:
        detail = f"{rows[-1].get('phase')}: {detail}"
    done = min(int(step), total - 1)  # what is not exported is not done
    before = _number(rows[-2], "tokens") if len(rows) > 1 else 0.0
    if not rate or not step or _is_stale(path.stat().st_mtime, (tokens - before) / rate):
        return Progress("train", name, done, total, "steps", None, f"stopped; {detail}", tokens=int(tokens))
    left = (total - step) * tokens / step / rate
    return Progress("train", name, done, total, "steps", rate, detail, left, tokens=int(tokens))


def transfer_progress(state: TransferState) -> list[Progress]:
    """Cells that are measured, and the steps of all fine-tunings where there are some to do."""
    cells = Progress("transfer", "table", state.cells_done, state.cells_total, "cells")
    steps = Progress("tune", "all", state.steps_done, state.steps_total, "steps", state.tokens_per_second, state.doing)
    return [cells, steps] if state.steps_total else [cells]


def last_rows(path: Path) -> list[dict[str, object]]:
    """The last two whole lines of a metrics file, read from its end; fewer where there are no more."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows: list[dict[str, object]] = []
    for line in reversed(lines):
        with suppress(ValueError):
            row = parse_json(line)
            if isinstance(row, dict):
                rows.insert(0, row)
        if len(rows) == 2:
            break
    return rows


def evaluation_progress(run: Run) -> Progress:
    """Measurements of masked text that are done, of models × languages × splits."""
    from orchestrator.steps.evaluating import is_evaluated, num_measurements, parts_path

    total = num_measurements(run)
    try:
        done = is_evaluated(run)
    except OrchError:
        return Progress("evaluate", run.expanded.setup, 0, total, "figures", detail=NOT_STARTED)
    path = parts_path(run)
    if not done and not path.exists():
        return Progress("evaluate", run.expanded.setup, 0, total, "figures", detail=NOT_STARTED)
    count = total if done else min(total - 1, path.read_text(encoding="utf-8").count('"masked_lm_accuracy"'))
    return Progress("evaluate", run.expanded.setup, count, total, "figures")


def measured_transfer(run: Run) -> list[Progress]:
    """Cells of the last `orch transfer` that have figures; nothing where none was called."""
    from orchestrator.steps.transferring import plan_path, rows_path

    there: dict[str, str] = {}  # cell -> task
    with suppress(OrchError):
        for line in read_bytes(rows_path(run), max_bytes=_MAX_BYTES).splitlines():
            with suppress(ValueError, KeyError):
                row = parse_json(line)
                if isinstance(row, dict):
                    there[str(row["cell"])] = str(row["task"])
    asked: object = None
    with suppress(OrchError, ValueError):
        asked = parse_json(read_bytes(plan_path(run), max_bytes=_MAX_BYTES))
    cells = {cell for cell in asked if isinstance(cell, str)} if isinstance(asked, list) else there.keys()
    if not cells:
        return []
    tasks = ", ".join(dict.fromkeys(there.values())) or "tasks"
    done = len(cells & there.keys())
    return [Progress("transfer", tasks, done, len(cells), "cells", detail="" if done else NOT_STARTED)]


def _report(run: Run) -> Progress:
    there = (run.root / "report" / "index.html").exists()
    return Progress("report", "index.html", int(there), 1, "page", detail="" if there else NOT_STARTED)


def _is_stale(last: float, interval_seconds: float) -> bool:
    return time.time() - last > max(_STALE_SECONDS, 3.0 * interval_seconds)


def _number(row: dict[str, object], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
