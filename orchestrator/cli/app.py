"""The application that commands join, and what they share: an opened run, a locked one with a cluster."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Concatenate, ParamSpec

import typer

from orchestrator import __version__
from orchestrator.commands import command, log_to_terminal
from orchestrator.options import DEFAULT_CONFIG, AddressOption, ConfigOption, SetOption, SetupOption, VerboseOption

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster
    from orchestrator.pipeline import LazyCluster
    from orchestrator.run import Run

P = ParamSpec("P")

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


def run_command(
    name: str, *, example: str, panel: str, on_cluster: bool = False
) -> Callable[[Callable[Concatenate[Run, P], None]], Callable[Concatenate[Run, P], None]]:
    """A command that is given an opened run; after its own options come those that say which run.

    `on_cluster`: --address is one of these.
    """

    def register(function: Callable[Concatenate[Run, P], None]) -> Callable[Concatenate[Run, P], None]:
        def opening(
            config: Path,
            overrides: list[str] | None,
            setup: str | None,
            verbose: bool,
            address: str | None = None,
            *own: P.args,
            **own_by_name: P.kwargs,
        ) -> None:
            function(opened(config, overrides, setup, address, verbose), *own, **own_by_name)

        _, *own = _parameters(function)
        shared = (option for option in _parameters(opened) if on_cluster or option.name != "address")
        opening.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        opening.__annotations__, opening.__doc__ = {}, function.__doc__  # the signature alone says what is asked for
        command(app, name, example=example, panel=panel)(opening)
        return function

    return register


def opened(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
) -> Run:
    log_to_terminal(verbose=verbose)
    from orchestrator.run import open_run

    return open_run(config, overrides=overrides or [], setup=setup, address=address)


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """With types, and not their names; the run is none that typer has to know."""
    return [*inspect.signature(function, locals={"Run": object}, eval_str=True).parameters.values()]


@contextmanager
def driving(run: Run) -> Iterator[LazyCluster]:
    """The run, locked, and a cluster for what there is to do."""
    from orchestrator import pipeline

    with pipeline.driving(run), pipeline.lazy_cluster(run, on_open=_say_links) as cluster:
        yield cluster


def _say_links(cluster: Cluster) -> None:
    from orchestrator.display import say_links

    say_links(cluster.links)


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
