"""How long a command takes that has nothing to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.bars import Bar
from tests.benchmarks.pairs import seconds_of
from tests.e2e.project import make_project

BARE = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'], standalone_mode=False)"


def bars(rounds: int) -> Iterator[Bar]:
    """--help, plan, and a run again; beside Python with typer alone."""
    with TemporaryDirectory() as folder:
        project = Path(folder)
        make_project(project)
        _orch(project, "run", "--address", "in-process")()
        sides = (
            lambda: subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True),
            _orch(project, "--help"),
            _orch(project, "plan"),
            _orch(project, "run"),
        )
        bare, help_, plan, again = seconds_of(*sides, rounds=rounds)
    yield Bar("Python and typer bare", "", bare, unit="s")
    yield Bar("`orch --help`", "Python and typer bare", help_, "≤", 0.3, unit="s")
    yield Bar("`orch plan`", "", plan, "≤", 2.0, unit="s")
    yield Bar("`orch run` with nothing to do, without starting Ray", "", again, "≤", 3.0, unit="s")


def _orch(project: Path, *words: str) -> Callable[[], object]:
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, "-m", "orchestrator.cli", *words]
    return lambda: subprocess.run(command, cwd=project, env=environment, capture_output=True, check=True)
