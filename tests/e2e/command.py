"""The command line as a user calls it: in this process, where imports are paid once, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from orchestrator.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left for its user."""

    status: int
    out: str
    err: str


def orch(*arguments: str, folder: Path) -> Result:
    """Run `orch ARGUMENTS` in `folder`, through its real entry point, without Ray unless an --address is given."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger()
    before = (root.level, [*root.handlers])
    status = 0
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", ["orch", *arguments]),
            mock.patch.dict(os.environ, {"RAY_ADDRESS": "in-process", "COLUMNS": "80"}),
        ):
            main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    return Result(status, out.getvalue(), err.getvalue())


def start(*arguments: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """Start `orch ARGUMENTS` as a process group of its own, as a terminal does, with these `variables` beside."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "ORCH_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"COLUMNS": "80", "PYTHONPATH": str(Path(__file__).resolve().parents[2])} | variables,
        start_new_session=True,
    )
