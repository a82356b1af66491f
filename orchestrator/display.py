"""What the command line shows while work goes on: bars in a terminal, a line now and then in a file; short results."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orchestrator.errors import OrchError
from orchestrator.progress import (
    NOT_STARTED,
    PrecomputePoll,
    Progress,
    corpus_progress,
    evaluation_progress,
    training_progress,
    vocabulary_progress,
)

if TYPE_CHECKING:
    from orchestrator.run import Run
    from orchestrator.steps.vocabularies import BuiltVocabulary

_REFRESH_SECONDS = 1.0
_FIRST_LINE_SECONDS, _LONGEST_LINE_SECONDS = 10.0, 300.0
_BAR_CELLS = 20

console = Console(highlight=False)


def stage(step: str, run: Run) -> AbstractContextManager[None]:
    """Show a step of a run while it goes on."""
    polls: dict[str, Callable[[], Sequence[Progress]]] = {
        "corpus": lambda: [corpus_progress(run)],
        "precompute": PrecomputePoll(run),
        "vocabulary": lambda: vocabulary_progress(run),
        "train": lambda: training_progress(run),
        "evaluate": lambda: [evaluation_progress(run)],
    }
    return watching(polls[step])


@contextmanager
def watching(poll: Callable[[], Sequence[Progress]]) -> Iterator[None]:
    """Show what `poll` finds while the block runs."""
    stop = threading.Event()
    shown = _Watch(poll)
    target = shown.bars if console.is_terminal else shown.lines
    thread = threading.Thread(target=target, args=(stop,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=2.0)


class _Watch:
    """Asks again and again; where the work does not know its own speed, from what has moved."""

    def __init__(self, poll: Callable[[], Sequence[Progress]]) -> None:
        self._poll = poll
        self._first: dict[tuple[str, str], tuple[float, int]] = {}

    def bars(self, stop: threading.Event) -> None:
        with Live(console=console, auto_refresh=False) as live:
            ended = False
            while not ended:
                ended = stop.wait(_REFRESH_SECONDS)
                live.update(self._table(self._found()), refresh=True)

    def lines(self, stop: threading.Event) -> None:
        said: set[str] = set()
        pause, ended = _FIRST_LINE_SECONDS, False
        while not ended:
            ended = stop.wait(pause)
            pause = min(1.5 * pause, _LONGEST_LINE_SECONDS)
            for progress in self._found():
                line = f"{progress.step} {progress.name}: {self._words(progress)}"
                if line not in said and progress.detail != NOT_STARTED:
                    say(escape(line))
                said.add(line)

    def _found(self) -> Sequence[Progress]:
        with suppress(OrchError):  # what is wrong comes to light where the work is done
            return self._poll()
        return []

    def _left(self, progress: Progress) -> float | None:
        now = time.monotonic()
        started, before = self._first.setdefault((progress.step, progress.name), (now, progress.done))
        if progress.is_done or progress.seconds_left is not None:
            return None if progress.is_done else progress.seconds_left
        moved = progress.done - before
        return (now - started) / moved * (progress.total - progress.done) if moved > 0 else None

    def _words(self, progress: Progress) -> str:
        """What matters most comes first: a narrow terminal cuts the end."""
        parts = [f"{progress.done:,}/{progress.total:,} {progress.unit}"]
        left = self._left(progress)
        if left is not None:
            parts.append(f"{duration(left)} left")
        if progress.tokens_per_second is not None and not progress.is_done:
            parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
        if progress.detail:
            parts.append(progress.detail)
        return " · ".join(parts)

    def _table(self, found: Sequence[Progress]) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for progress in found:
            filled = _BAR_CELLS * progress.done // max(1, progress.total)
            bar = f"[green]{'━' * filled}[/][dim]{'━' * (_BAR_CELLS - filled)}[/]"
            table.add_row(f"[bold]{progress.step}[/]", escape(progress.name), bar, escape(self._words(progress)))
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


def say(text: str) -> None:
    """One line for the reader, marked up."""
    console.print(text, soft_wrap=True)
    sys.stdout.flush()


def plain_table(*, words: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """A table without lines whose words give way when the terminal is narrow, and whose numbers never do."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in words:
        table.add_column(name, overflow="ellipsis")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def say_links(links: Mapping[str, tuple[str, ...]]) -> None:
    """Where else there is something to see of a cluster."""
    for name, places in links.items():
        more = f" and {len(places) - 1} more, logs/events.jsonl" if len(places) > 1 else ""
        say(f"[dim]Ray's {name}: {escape(places[0])}{more}[/]")


@contextmanager
def checking() -> Iterator[Callable[[str], None]]:
    """Show, in a terminal, what is being checked."""
    with console.status("checking") as status:
        yield lambda what: status.update(f"checking {escape(what)}")


def print_problems(problems: Sequence[str]) -> None:
    """What `orch verify` found."""
    for problem in problems:
        say(f"[red]✗[/] {escape(problem)}")
    count = "1 problem." if len(problems) == 1 else f"{len(problems)} problems."
    say(count if problems else "[green]✓[/] Every checksum is right.")


def print_precomputed(run: Run) -> None:
    """What `orch precompute-teacher` has to say where teachers answer while students train."""
    if run.config.signals.mode == "live":
        rest = ", but for the vectors of parallel sentences" if run.pivots else ""
        say(f"Signals are live: nothing of the teachers is to be stored{rest}; they answer while students train.")
    elif run.config.signals.mode == "hybrid":
        say("Signals are hybrid: teachers answer while students train, and what they say is stored then.")
    if run.config.signals.mode != "cache":
        say("The masked text is ready; go on with [bold]orch build-vocab[/] and [bold]orch train-students[/].")


def print_vocabularies(built: Sequence[BuiltVocabulary]) -> None:
    """What `orch build-vocab` made."""
    for vocabulary in built:
        how = "built" if vocabulary.new else "already there"
        text = f"{vocabulary.student}: {vocabulary.size:,} tokens of {', '.join(vocabulary.teachers)}"
        say(escape(f"{text} ({how}), {vocabulary.folder}"))
