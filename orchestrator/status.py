"""What `orch status` shows: a table for people, again and again if they like, or one line of JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from orchestrator.display import console, duration, plain_table, say_links
from orchestrator.progress import Progress, Status


def print_status(status: Status) -> None:
    """The table, who is at work, what went wrong, and where else to look."""
    console.print(_shown(status), soft_wrap=False)
    if status.driver is not None:
        say_links(status.history.links)


def watch_status(poll: Callable[[], Status], *, seconds: float) -> None:
    """The same, anew every so many `seconds` until Ctrl-C."""
    with Live(_shown(poll()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(seconds)
            live.update(_shown(poll()), refresh=True)


def status_line(status: Status) -> str:
    """Everything as JSON; `time` and `error_time` are seconds since 1970."""
    history = status.history
    return json.dumps(
        {
            "time": time.time(),
            "driver": asdict(status.driver) if status.driver is not None else None,
            "links": dict(history.links) if status.driver is not None else {},
            "stores": {"place": status.stores, "writer": status.writer},
            "error": history.error,
            "work": [_row(one) for one in status.work],
        },
        ensure_ascii=False,
    )


def _row(one: Progress) -> dict[str, object]:
    row = {name: value for name, value in asdict(one).items() if name != "trouble"}
    trouble = one.trouble
    return row | {"retries": trouble.retries, "error": trouble.error, "error_time": trouble.time or None}


def _shown(status: Status) -> RenderableType:
    numbers = ("done", "left", "tokens/s", *(["retries"] if any(one.trouble.retries for one in status.work) else []))
    table = plain_table(words=("step", "what"), numbers=numbers)
    table.columns[0].no_wrap = True  # what is said beside gives way first
    table.add_column()
    for one in status.work:
        counts = (
            f"{one.done:,}/{one.total:,} {one.unit}",
            duration(one.seconds_left) if one.seconds_left is not None else "",
            _count(one.tokens_per_second),
            _count(one.trouble.retries or None),
        )
        table.add_row(one.step, escape(one.name), *counts[: len(numbers)], _state(one))
    lines: list[RenderableType] = [table]
    for one in status.work:
        if one.trouble.error:
            lines.append(_error(f"{one.step} {one.name}", one.trouble.error, one.trouble.time))
    if status.driver is not None:
        lines.append(Text(f"At work: {status.driver}."))
    else:
        lines.append(Text("No orch is at work on this run."))
        if status.history.error:
            lines.append(_error("The last one ended", status.history.error, status.history.time))
    if status.writer not in {None, str(status.driver)}:
        lines.append(Text(f"At work on {status.stores}: {status.writer}."))
    return Group(*lines)


def _state(one: Progress) -> str:
    """Whether it is done, what there is of it, and what it says itself."""
    parts = [f"{one.rows:,} rows" if one.rows else "", f"{one.tokens:,} tokens" if one.tokens else ""]
    own = "[green]done[/]" if one.is_done else escape(one.detail)
    return ", ".join(filter(None, (own, *parts)))


def _error(what: str, error: str, since: float) -> Text:
    return Text.assemble(("✗ ", "red"), f"{what}, {duration(time.time() - since)} ago: {error}")


def _count(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None else ""
