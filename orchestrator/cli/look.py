"""Commands that change nothing: how far a run is, whether it is whole, what it holds, what it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import LOOK, config_app, run_command
from orchestrator.commands import command
from orchestrator.options import DEFAULT_CONFIG, ConfigOption, SetOption, SetupOption

if TYPE_CHECKING:
    from orchestrator.run import Run


@run_command("status", example="orch status --watch 5", panel=LOOK)
def status(
    run: Run,
    watch: Annotated[float | None, typer.Option(help="Show it anew every so many seconds.", min=0.5)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")] = False,
) -> None:
    """Show what is done and what is under way, also from another terminal: rate, time left, retries, errors."""
    from orchestrator.progress import StatusPoll
    from orchestrator.status import print_status, status_line, watch_status

    poll = StatusPoll(run)
    if as_json:
        typer.echo(status_line(poll()))
    elif watch is not None:
        watch_status(poll, seconds=watch)
    else:
        print_status(poll())


@run_command("verify", example="orch verify || echo damaged", panel=LOOK)
def verify(run: Run) -> None:
    """Check every checksum of the run: corpus, shards, receipts, manifests, vocabularies, checkpoints."""
    from orchestrator.display import checking, print_problems
    from orchestrator.steps.verifying import verify_run

    with checking() as show:
        problems = verify_run(run, on_progress=show)
    print_problems(problems)
    raise typer.Exit(1 if problems else 0)


@run_command("inspect", example="orch inspect --language de --rows 5", panel=LOOK)
def inspect(
    run: Run,
    teacher: Annotated[str | None, typer.Option(help="Whose signals; default: the first teacher.")] = None,
    language: Annotated[str | None, typer.Option(help="Of which language; default: the teacher's first.")] = None,
    row: Annotated[int, typer.Option(help="The first row to show, counted from 0.")] = 0,
    rows: Annotated[int, typer.Option(help="How many rows.", min=1)] = 3,
    top: Annotated[int, typer.Option(help="How many of the teacher's guesses.", min=1)] = 5,
) -> None:
    """Show stored rows: the masked tokens, and the teacher's top guesses as words with their probability."""
    from orchestrator.steps.inspecting import inspect_signals
    from orchestrator.tables import print_inspection

    print_inspection(inspect_signals(run, teacher=teacher, language=language, first_row=row, num_rows=rows, top=top))


@command(config_app, "show", example="orch config show --set recipe=pkd > pkd.yaml", panel=LOOK)
def show_config(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Also every default.")] = False,
) -> None:
    """Print the configuration as expanded, its recipe merged: YAML that gives the same run again."""
    from orchestrator.config.loading import load_config
    from orchestrator.config.run import known_setup
    from orchestrator.config.setups import expand
    from orchestrator.config.writing import as_yaml

    run = expand(load_config(config, overrides=overrides or []), setup=known_setup(setup))
    typer.echo(as_yaml(run, defaults=everything), nl=False)
