"""The command line: each command parses, calls one function, prints; nothing heavy is imported before one runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import __version__, options
from orchestrator.commands import command, log_to_terminal, run_app
from orchestrator.options import DEFAULT_CONFIG, AddressOption, ConfigOption, SetOption, SetupOption, VerboseOption

if TYPE_CHECKING:
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


def main() -> None:
    """Entry point of `orch`."""
    run_app(app)


@contextmanager
def _driving(run: Run) -> Iterator[LazyCluster]:
    """The run, locked, and a cluster for what there is to do."""
    from orchestrator import pipeline

    with pipeline.driving(run), pipeline.lazy_cluster(run) as cluster:
        yield cluster


def _open(
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


@command(app, "init", example="orch init && orch plan", panel=START)
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented orch.yaml to start from."""
    from orchestrator.resources import write_starter

    write_starter(path, force=force)
    typer.echo(f"Wrote {path}. Name your text and teachers in it, then: orch plan")


@command(app, "plan", example="orch plan --setup one-to-many", panel=START)
def plan(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Show what will be computed and stored, before anything runs: rows, shards, bytes per signal, disk, time."""
    from orchestrator.display import stage
    from orchestrator.pipeline import check_parallel_texts, read_text
    from orchestrator.planning import make_plan
    from orchestrator.tables import print_plan

    run = _open(config, overrides, setup, verbose)
    check_parallel_texts(run)
    read_text(run, stage=stage)
    print_plan(make_plan(run))


@command(app, "run", example="orch run --setup many-to-one", panel=WORK)
def run_all(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Do the whole job: corpus, teachers, vocabularies, students, evaluation, report; each step only if not done."""
    from orchestrator import pipeline
    from orchestrator.display import stage
    from orchestrator.tables import print_headline

    run = _open(config, overrides, setup, verbose, address)
    with _driving(run) as cluster:
        page = pipeline.run_all(run, cluster, stage=stage)
    print_headline(run)
    typer.echo(f"Report: {page.resolve().as_uri()}")


@command(app, "precompute-teacher", example="orch precompute-teacher --address auto", panel=WORK)
def precompute_teacher(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run each teacher once over its text and store what the objectives need, as Arrow shards.

    Run it again after a stop: only the shards that are missing are computed.
    """
    from orchestrator import pipeline
    from orchestrator.display import print_precomputed, stage

    run = _open(config, overrides, setup, verbose, address)
    with _driving(run) as cluster:
        pipeline.compute_signals(run, cluster, stage=stage)
    print_precomputed(run)


@command(app, "build-vocab", example="orch build-vocab --setup many-to-one", panel=WORK)
def build_vocab(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Build each student's vocabulary: the union of several teachers' or the part of one that its text uses."""
    from orchestrator import pipeline
    from orchestrator.display import print_vocabularies, stage

    run = _open(config, overrides, setup, verbose)
    with pipeline.driving(run), stage("vocabulary", run):
        built = pipeline.build_vocabularies(run)
    print_vocabularies(built)


@command(app, "train-students", example="orch train-students --setup one-to-many --set training.steps=2000", panel=WORK)
def train_students(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Train the students of a setup from the stored signals; goes on from the last checkpoint."""
    from orchestrator import pipeline
    from orchestrator.display import stage

    run = _open(config, overrides, setup, verbose, address)
    with _driving(run) as cluster, stage("train", run):
        pipeline.train(run, cluster.get)


@command(app, "evaluate", example="orch evaluate --setup one-to-one", panel=WORK)
def evaluate(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Measure students, teachers and no-teacher baselines on held-out and parallel text."""
    from orchestrator import pipeline
    from orchestrator.display import stage

    run = _open(config, overrides, setup, verbose, address)
    with _driving(run) as cluster, stage("evaluate", run):
        pipeline.evaluate(run, cluster.get)


@command(
    app, "transfer", example="orch transfer --task pos --source en --mode full-trg --mode sft --seeds 3", panel=WORK
)
def transfer(
    source: options.SourceOption,
    task: options.TaskOption = None,
    target: options.TargetOption = None,
    mode: options.ModeOption = None,
    model: options.ModelOption = None,
    teacher: options.ListenOption = None,
    seeds: options.SeedsOption = 1,
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Fine-tune on a task in one language and test in others: tagging, topics, entities.

    With a student per language, a mode says which one learns (src: the source's, trg: the target's) and what moves:

    full-src, full-trg: all weights; full-src reads the target with the source's student. freeze+K: the head and the top
    K layers, learnt at the source, put into the target's. adapter-src, -trg, -joint: bottlenecks after each layer, the
    rest frozen; joint: one set for both students. bitfit-src, -trg, -joint: biases alone. sft: what full-src changed in
    the source's weights, added to the target's. distil: full-trg, also held to the logits of the tuned teacher.

    Tasks stand under transfer.tasks in the configuration. Run again after a stop: what is measured is not done again.
    """
    from orchestrator import pipeline
    from orchestrator.display import watching
    from orchestrator.progress import transfer_progress
    from orchestrator.steps import transferring
    from orchestrator.tables import print_transfer

    run = _open(config, overrides, setup, verbose)
    request = transferring.TransferRequest(
        source=source,
        tasks=options.listed(task),
        targets=options.listed(target),
        modes=options.listed(mode),
        models=tuple(model or ()),
        teacher=teacher,
        num_seeds=seeds,
    )
    with pipeline.driving(run):
        plans = transferring.plan_transfer(run, request)
        state = transferring.begin(run, plans)
        with watching(lambda: transfer_progress(state)):
            transferring.transfer(run, plans, state=state)
    print_transfer(transferring.transfer_lines(run, plans))


@command(app, "report", example="orch report && xdg-open runs/orch/report/index.html", panel=WORK)
def report(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Write one HTML page with tables and plots of everything that was measured in the run."""
    from orchestrator import pipeline
    from orchestrator.tables import print_headline

    run = _open(config, overrides, setup, verbose)
    with pipeline.driving(run):
        page = pipeline.write_report(run)
    print_headline(run)
    typer.echo(f"Report: {page.resolve().as_uri()}")


@command(app, "status", example="watch -n 5 orch status", panel=LOOK)
def status(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Show what is done and what is under way, also from another terminal."""
    from orchestrator.display import print_status
    from orchestrator.locking import driver_of
    from orchestrator.progress import run_progress

    run = _open(config, overrides, setup, verbose)
    print_status(run_progress(run), driver_of(run.root))


@command(app, "verify", example="orch verify || echo damaged", panel=LOOK)
def verify(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Check every checksum of the run: corpus, shards, receipts, manifests, vocabularies, checkpoints."""
    from orchestrator.display import checking, print_problems
    from orchestrator.steps.verifying import verify_run

    run = _open(config, overrides, setup, verbose)
    with checking() as show:
        problems = verify_run(run, on_progress=show)
    print_problems(problems)
    raise typer.Exit(1 if problems else 0)


@command(app, "inspect", example="orch inspect --language de --rows 5", panel=LOOK)
def inspect(
    teacher: Annotated[str | None, typer.Option(help="Whose signals; default: the first teacher.")] = None,
    language: Annotated[str | None, typer.Option(help="Of which language; default: the teacher's first.")] = None,
    row: Annotated[int, typer.Option(help="The first row to show, counted from 0.")] = 0,
    rows: Annotated[int, typer.Option(help="How many rows.", min=1)] = 3,
    top: Annotated[int, typer.Option(help="How many of the teacher's guesses.", min=1)] = 5,
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    setup: SetupOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Show stored rows: the masked tokens, and the teacher's top guesses as words with their probability."""
    from orchestrator.steps.inspecting import inspect_signals
    from orchestrator.tables import print_inspection

    run = _open(config, overrides, setup, verbose)
    print_inspection(inspect_signals(run, teacher=teacher, language=language, first_row=row, num_rows=rows, top=top))


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


app.add_typer(config_app, name="config", rich_help_panel=LOOK)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    rich_help_panel=START,
)
def vocab(context: typer.Context) -> None:
    """Unions and trims of tokenizer vocabularies, without a run."""
    from vocab_tools.cli import app as vocab_app

    vocab_app(context.args, prog_name="orch vocab")


if __name__ == "__main__":
    main()
