"""What every command has: an example in its help, one way to stop, one message for an error, a log for the terminal."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from orchestrator.errors import OrchError
from orchestrator.logs import DiscreetFormatter
from orchestrator.stopping import stoppable

P = ParamSpec("P")

_verbose = False

#: Control characters, which the name of somebody's file may hold, as what terminals do not obey.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


def command(
    app: typer.Typer, name: str, *, example: str, panel: str
) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A command of `app`, whose help ends with an example.

    Its KeyboardInterrupt reaches `run_app` under another name, since typer would answer it itself.
    """

    def register(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def stoppable(*arguments: P.args, **options: P.kwargs) -> None:
            try:
                function(*arguments, **options)
            except KeyboardInterrupt:
                raise _Stopped from None

        text = f"{inspect.cleandoc(function.__doc__ or '')}\n\n[dim]Example[/]  [cyan]{example}[/]"
        return app.command(name, help=text, rich_help_panel=panel)(stoppable)

    return register


def run_app(app: typer.Typer) -> None:
    """Do what the command line says: an OrchError becomes one message and exit status 1, Ctrl-C or SIGTERM 130."""
    with stoppable():
        try:
            app()
        except OrchError as error:
            if _verbose:
                logging.getLogger(__name__).exception("failed")
            _fail(str(error), 1)
        except (_Stopped, KeyboardInterrupt):
            _fail("Stopped. What was finished is kept: the same command goes on from here.", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)


def _fail(message: str, status: int) -> None:
    typer.secho("orch: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(message.translate(_CONTROLS), err=True)
    sys.exit(status)


class _TerminalLog(logging.Handler):
    """Warnings (all, when verbose) as lines on standard error, as it is at that moment: progress bars move it."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def log_to_terminal(*, verbose: bool) -> None:
    """Show warnings; when verbose everything, and the traceback of an error."""
    global _verbose
    _verbose = verbose
    handler = _TerminalLog(logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(DiscreetFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
