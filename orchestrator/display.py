"""What the command line prints: progress bars while work goes on, and tables of plans, states and results."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orchestrator.progress import PrecomputePoll, Progress, evaluation_progress, training_progress
from orchestrator.run import Run

if TYPE_CHECKING:
    from orchestrator.planning import RunPlan
    from orchestrator.steps.inspecting import InspectedRow
    from orchestrator.steps.vocabularies import BuiltVocabulary

_REFRESH_SECONDS = 0.5
_LINE_SECONDS = 15.0

console = Console(highlight=False)


@contextmanager
def watching(title: str, poll: Callable[[], Sequence[Progress]]) -> Iterator[None]:
    """Show what `poll` finds while the block runs: bars in a terminal, a line now and then in a file."""
    stop = threading.Event()
    shown = _Watch(title, poll)
    target = shown.bars if console.is_terminal else shown.lines
    thread = threading.Thread(target=target, args=(stop,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5.0)


def stage(step: str, run: Run) -> AbstractContextManager[None]:
    """Show a step of a run while it goes on."""
    polls: dict[str, Callable[[], Sequence[Progress]]] = {
        "precompute": PrecomputePoll(run),
        "train": lambda: training_progress(run),
        "evaluate": lambda: [evaluation_progress(run)],
    }
    return watching(step, polls[step])


class _Watch:
    """Turns successive polls into rates and times left."""

    def __init__(self, title: str, poll: Callable[[], Sequence[Progress]]) -> None:
        self._title, self._poll = title, poll
        self._first: dict[tuple[str, str], tuple[float, int]] = {}

    def bars(self, stop: threading.Event) -> None:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            while True:
                ended = stop.wait(_REFRESH_SECONDS)
                live.update(self._table(self._poll()), refresh=True)
                if ended:
                    return

    def lines(self, stop: threading.Event) -> None:
        while True:
            ended = stop.wait(_LINE_SECONDS)
            for progress in self._poll():
                if ended or not progress.is_done:
                    console.print(f"{self._title}: {progress.name} {self._words(progress)}", soft_wrap=True)
            if ended:
                return

    def _left(self, progress: Progress) -> float | None:
        now = time.monotonic()
        started, before = self._first.setdefault((progress.step, progress.name), (now, progress.done))
        if progress.is_done:
            return None
        if progress.seconds_left is not None:
            return progress.seconds_left
        moved = progress.done - before
        return (now - started) / moved * (progress.total - progress.done) if moved > 0 else None

    def _words(self, progress: Progress) -> str:
        parts = [f"{progress.done}/{progress.total} {progress.unit}"]
        if progress.rate is not None and not progress.is_done:
            parts.append(f"{progress.rate:,.0f} tokens/s")
        left = self._left(progress)
        if left is not None:
            parts.append(f"{duration(left)} left")
        if progress.detail:
            parts.append(progress.detail)
        return " · ".join(parts)

    def _table(self, found: Sequence[Progress]) -> Table:
        table = Table.grid(padding=(0, 2))
        for progress in found:
            share = progress.done / max(1, progress.total)
            filled = round(24 * share)
            bar = f"[green]{'━' * filled}[/][dim]{'━' * (24 - filled)}[/]"
            table.add_row(f"[bold]{self._title}[/]", progress.name, bar, self._words(progress))
        return table


def duration(seconds: float) -> str:
    """1:23:45 or 2:07."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(num_bytes: float) -> str:
    """1.2 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError


def print_status(found: Sequence[Progress]) -> None:
    """The table of `orch status`."""
    table = Table(box=None, pad_edge=False)
    for column in ("step", "what", "done", "of", "", "rate", "left", ""):
        table.add_column(column, justify="right" if column in ("done", "of", "rate", "left") else "left")
    for progress in found:
        table.add_row(
            progress.step,
            progress.name,
            str(progress.done),
            str(progress.total),
            progress.unit,
            f"{progress.rate:,.0f} tokens/s" if progress.rate else "",
            duration(progress.seconds_left) if progress.seconds_left else "",
            "[green]done[/]" if progress.is_done else progress.detail,
        )
    console.print(table)


def print_problems(problems: Sequence[str]) -> None:
    """What `orch verify` found."""
    for problem in problems:
        console.print(f"[red]✗[/] {problem}", soft_wrap=True)
    console.print(f"{len(problems)} problems." if problems else "[green]✓[/] Every checksum is right.")


def say(text: str) -> None:
    """One line for the reader."""
    console.print(text, soft_wrap=True)
    sys.stdout.flush()


def print_vocabularies(built: Sequence[BuiltVocabulary]) -> None:
    """What `orch build-vocab` made."""
    for vocabulary in built:
        how = "built" if vocabulary.new else "already there"
        console.print(
            f"{vocabulary.student}: {vocabulary.size:,} tokens of {', '.join(vocabulary.teachers)} ({how}) "
            f"{vocabulary.folder}",
            soft_wrap=True,
        )


def print_inspection(rows: Sequence[InspectedRow]) -> None:
    """What `orch inspect` found: each row, then its masked tokens with the teacher's guesses."""
    for row in rows:
        console.print(f"[bold]row {row.row_id} copy {row.copy}[/]  {escape(row.text)}", soft_wrap=True)
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for column in ("position", "shown", "truth", "the teacher's guesses"):
            table.add_column(column, justify="right" if column == "position" else "left")
        for masked in row.masked:
            guesses = "  ".join(
                f"[green]{escape(g.token)}[/] {g.probability:.2f}"
                if g.token == masked.truth
                else f"{escape(g.token)} {g.probability:.2f}"
                for g in masked.guesses
            )
            table.add_row(str(masked.position), escape(masked.shown), escape(masked.truth), guesses)
        console.print(table)


def print_plan(plan: RunPlan) -> None:
    """The tables of `orch plan`."""
    languages = _table("student", "language", "teacher", "texts", "tokens", "share q", "epochs", words=3)
    for line in plan.languages:
        languages.add_row(
            line.student,
            line.language,
            line.teacher,
            f"{line.texts:,}",
            f"{line.tokens:,}",
            f"{line.share:.3f}",
            f"{line.epochs:.1f}",
        )
    console.print(f"[bold]Setup {plan.setup}[/]")
    console.print(languages)
    teachers = _table("teacher", "rows", "tokens", "shards", "missing", "bytes per token", "on disk", "time", words=1)
    for teacher in plan.teachers:
        parts = " + ".join(f"{table} {value:.1f}" for table, value in teacher.bytes_per_token.items())
        teachers.add_row(
            teacher.name,
            f"{teacher.rows:,}",
            f"{teacher.tokens:,}",
            str(teacher.shards),
            str(teacher.missing),
            f"{sum(teacher.bytes_per_token.values()):.0f} = {parts}",
            size(teacher.num_bytes),
            f"about {duration(teacher.seconds)}",
        )
    console.print(teachers)
    students = _table("student", "role", "encoder", "steps", "tokens", "time", words=2)
    for student in plan.students:
        students.add_row(
            student.name,
            student.role,
            f"{student.encoder_parameters / 1e6:.1f} M",
            f"{student.steps:,}",
            f"{student.tokens:,}",
            f"about {duration(student.seconds)}",
        )
    console.print(students)
    needed = sum(teacher.num_bytes for teacher in plan.teachers)
    console.print(
        f"Disk: {size(needed)} of signals, {size(plan.free_bytes)} free. "
        f"Times are estimates from a matrix product of {plan.gemm_flops / 1e9:.0f} GFLOP/s on this machine."
    )
    if needed > plan.free_bytes:
        console.print(
            "[red]The signals do not fit on this disk[/]: lower soft-targets.k, keep fewer layers, or move run.root."
        )


def print_headline(run: Run) -> None:
    """The measured figures of a run, as the report's first table shows them."""
    from orchestrator.report.headline import decimal, headline, means, percent
    from orchestrator.report.reading import read_metrics

    rows = headline(read_metrics(run.metrics_path))
    table = _table("language", "model", "role", "accuracy", "bits/character", "agreement", "KL, nats", words=3)
    for row in [*rows, *means(rows)]:
        figures = row.figures
        cells = {
            "accuracy": percent(figures.accuracy),
            "bits_per_character": decimal(figures.bits_per_character),
            "agreement": percent(figures.agreement),
            "kl": decimal(figures.kl),
        }
        table.add_row(
            row.language,
            row.model,
            row.role,
            *(f"[bold]{text}[/]" if name in row.best else text for name, text in cells.items()),
        )
    console.print(table)


def _table(*columns: str, words: int) -> Table:
    """A plain table whose first `words` columns are words and the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < words else "right", overflow="fold")
    return table
