"""The application that commands join, and what they share: an opened run, a locked one with a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import __version__
from orchestrator.commands import log_to_terminal

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster
    from orchestrator.pipeline import LazyCluster
    from orchestrator.run import Run


app = typer.Typer(
    name="orch",
    help="Distil big frozen transformer encoders into small ones, across languages.\n\n"
    "A first run:  [bold]orch demo[/]   ·   your own:  [bold]orch init[/], edit orch.yaml, [bold]orch plan[/], "
    "[bold]orch run[/]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

config_app = typer.Typer(help="What a configuration comes to.", no_args_is_help=True, rich_markup_mode="rich")
START, WORK, LOOK = "Start", "Work: each command does what is missing, and goes on after a stop", "Look"


@contextmanager
def driving(run: Run) -> Iterator[LazyCluster]:
    """The run, locked, and a cluster for what there is to do."""
    from orchestrator import pipeline

    with pipeline.driving(run), pipeline.lazy_cluster(run, on_open=_say_links) as cluster:
        yield cluster


def _say_links(cluster: Cluster) -> None:
    from orchestrator.display import say_links

    say_links(cluster.links)


def opened(
    config: Path, overrides: list[str] | None, setup: str | None, verbose: bool, address: str | None = None
) -> Run:
    log_to_terminal(verbose=verbose)
    from orchestrator.run import open_run

    return open_run(config, overrides=overrides or [], setup=setup, address=address)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"orch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


app.add_typer(config_app, name="config", rich_help_panel=LOOK)
