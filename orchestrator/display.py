"""What the command line prints: progress bars while work goes on, and tables of plans, states and results."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.progress import Progress

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
