"""Commands to begin with: a configuration, what it will take, the recipes, the demo, vocabularies without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import START, app, opened
from orchestrator.commands import command, log_to_terminal
from orchestrator.options import (
    DEFAULT_CONFIG,
    AddressOption,
    ConfigOption,
    EpochsOption,
    GpusOption,
    NetworkOption,
    NodesOption,
    SetOption,
    SetupOption,
    StorageOption,
    StudentRateOption,
    TeacherRateOption,
    TeraflopsOption,
    TokensOption,
    VerboseOption,
)


@command(app, "init", example="orch init && orch plan", panel=START)
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented orch.yaml to start from."""
    from orchestrator.resources import write_starter

    write_starter(path, force=force)
    typer.echo(f"Wrote {path}. Name your text and teachers in it, then: orch plan")


@command(app, "plan", example="orch plan --nodes 8 --gpus 8 --tokens 1e9 --device-tflops 400", panel=START)
def plan(
    nodes: NodesOption = None,
    gpus: GpusOption = None,
    tokens: TokensOption = None,
    epochs: EpochsOption = None,
    teacher_rate: TeacherRateOption = None,
    student_rate: StudentRateOption = None,
    teraflops: TeraflopsOption = None,
    network: NetworkOption = None,
    storage: StorageOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Show what will be computed and stored, before anything runs: rows, shards, bytes per signal, disk, time.

    With --nodes: what it takes on such machines, and what it waits for; text and teachers need not be there
    (docs/scaling.md).
    """
    if nodes is not None:
        log_to_terminal(verbose=verbose)
        from orchestrator.config.loading import load_config
        from orchestrator.config.run import known_setup
        from orchestrator.config.setups import expand
        from orchestrator.scale_planning import ScaleOptions, make_scale_plan
        from orchestrator.scale_table import print_scale_plan
        from orchestrator.scaling.times import Machines

        machines = Machines(nodes, gpus or 0, network_gbit=network or 10.0, storage_gbit=storage)
        given = ScaleOptions(machines, tokens, epochs, teacher_rate, student_rate, teraflops)
        expanded = expand(load_config(config, overrides=overrides or []), setup=known_setup(setup))
        print_scale_plan(make_scale_plan(expanded, given))
        return
    of_machines = (gpus, tokens, epochs, teacher_rate, student_rate, teraflops, network, storage)
    if any(value is not None for value in of_machines):
        from orchestrator.errors import ConfigError

        raise ConfigError("Rates, sizes and GPUs are options of a plan for many machines: give --nodes too.")
    run = opened(config, overrides, setup, None, verbose)
    from orchestrator.display import stage
    from orchestrator.pipeline import check_tables, read_text
    from orchestrator.planning import make_plan
    from orchestrator.tables import print_plan

    check_tables(run)
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
