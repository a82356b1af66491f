"""Commands to begin with: a configuration, what it will take, the recipes, the demo, vocabularies without a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import START, app, run_command
from orchestrator.commands import command, log_to_terminal
from orchestrator.options import DEFAULT_CONFIG, AddressOption, VerboseOption

if TYPE_CHECKING:
    from orchestrator.run import Run


@command(app, "init", example="orch init && orch plan", panel=START)
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented orch.yaml to start from."""
    from orchestrator.resources import write_starter

    write_starter(path, force=force)
    typer.echo(f"Wrote {path}. Name your text and teachers in it, then: orch plan")


@run_command("plan", example="orch plan --setup one-to-many", panel=START)
def plan(run: Run) -> None:
    """Show what will be computed and stored, before anything runs: rows, shards, bytes per signal, disk, time."""
    from orchestrator.display import stage
    from orchestrator.pipeline import check_parallel_texts, read_text
    from orchestrator.planning import make_plan
    from orchestrator.tables import print_plan

    check_parallel_texts(run)
    read_text(run, stage=stage)
    print_plan(make_plan(run))


@command(app, "demo", example="orch demo", panel=START)
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's runs go.")] = Path("runs/demo"),
    address: AddressOption = None,
    verbose: VerboseOption = False,
) -> None:
    """The whole job on text that ships with orch: two teachers are made, then students in all three setups.

    About five minutes on two cores; run again after a stop, it goes on.
    """
    log_to_terminal(verbose=verbose)
    from orchestrator.demo import run_demo
    from orchestrator.display import stage
    from orchestrator.tables import print_headline

    run, page = run_demo(folder, address=address, stage=stage)
    print_headline(run)
    typer.echo(f"Report: {page.resolve().as_uri()}")


@command(app, "recipes", example="orch recipes tinybert", panel=START)
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show the file of this one, or of a path.")] = None,
) -> None:
    """List the published methods that `recipe: NAME` in a configuration, or --set recipe=NAME, trains with."""
    from orchestrator.config.recipes import read_recipe, shipped_recipes
    from orchestrator.tables import print_recipes

    if name is None:
        print_recipes(shipped_recipes())
    else:
        typer.echo(read_recipe(name).text, nl=False)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    rich_help_panel=START,
)
def vocab(context: typer.Context) -> None:
    """Unions and trims of tokenizer vocabularies, without a run."""
    from vocab_tools.cli import app as vocab_app

    vocab_app(context.args, prog_name="orch vocab")
