"""The command line: each command parses, calls one function, prints; nothing heavy is imported before one runs."""

from __future__ import annotations

from orchestrator.cli import start, work, look  # isort: skip  (the order of the help)
from orchestrator.cli.app import app
from orchestrator.commands import run_app

__all__ = ["app", "look", "main", "start", "work"]


def main() -> None:
    """Entry point of `orch`."""
    run_app(app)
