"""Commands that do what is missing, and go on after a stop: teachers, vocabularies, students, figures, the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import options
from orchestrator.cli.app import WORK, app, driving, run_command
from orchestrator.commands import command, log_to_terminal
from orchestrator.options import AddressOption, VerboseOption

if TYPE_CHECKING:
    from orchestrator.run import Run


@run_command("run", example="orch run --setup many-to-one", panel=WORK, on_cluster=True)
def run_all(run: Run) -> None:
    """Do the whole job: corpus, teachers, vocabularies, students, evaluation, report; each step only if not done."""
    from orchestrator import pipeline
    from orchestrator.display import stage
    from orchestrator.tables import print_headline

    with driving(run) as cluster:
        page = pipeline.run_all(run, cluster, stage=stage)
    print_headline(run)
    typer.echo(f"Report: {page.resolve().as_uri()}")


@run_command("precompute-teacher", example="orch precompute-teacher --address auto", panel=WORK, on_cluster=True)
def precompute_teacher(run: Run) -> None:
    """Run each teacher once over its text and store what the objectives need, as Arrow shards.

    Run it again after a stop: only the shards that are missing are computed.
    """
    from orchestrator import pipeline
    from orchestrator.display import print_precomputed, stage

    with driving(run) as cluster:
        pipeline.compute_signals(run, cluster, stage=stage)
    print_precomputed(run)


@run_command("build-vocab", example="orch build-vocab --setup many-to-one", panel=WORK)
def build_vocab(run: Run) -> None:
    """Build each student's vocabulary: the union of several teachers' or the part of one that its text uses."""
    from orchestrator import pipeline
    from orchestrator.display import print_vocabularies, stage

    with pipeline.driving(run), stage("vocabulary", run):
        built = pipeline.build_vocabularies(run)
    print_vocabularies(built)


@run_command(
    "train-students",
    example="orch train-students --setup one-to-many --set training.steps=2000",
    panel=WORK,
    on_cluster=True,
)
def train_students(run: Run) -> None:
    """Train the students of a setup from the stored signals; goes on from the last checkpoint."""
    from orchestrator import pipeline
    from orchestrator.display import stage

    with driving(run) as cluster, stage("train", run):
        pipeline.train(run, cluster.get)


@run_command("evaluate", example="orch evaluate --setup one-to-one", panel=WORK, on_cluster=True)
def evaluate(run: Run) -> None:
    """Measure students, teachers and no-teacher baselines on held-out and parallel text."""
    from orchestrator import pipeline
    from orchestrator.display import stage

    with driving(run) as cluster, stage("evaluate", run):
        pipeline.evaluate(run, cluster.get)


@run_command(
    "transfer",
    example="orch transfer --task pos --source en --mode full-trg --mode sft --seeds 3",
    panel=WORK,
    on_cluster=True,
)
def transfer(
    run: Run,
    source: options.SourceOption,
    task: options.TaskOption = None,
    target: options.TargetOption = None,
    mode: options.ModeOption = None,
    model: options.ModelOption = None,
    teacher: options.ListenOption = None,
    seeds: options.SeedsOption = 1,
) -> None:
    """Fine-tune on a task in one language and test in others: tagging, topics, entities.

    With a student per language, a mode says which one learns (src: the source's, trg: the target's) and what moves:

    full-src, full-trg: all weights; full-src reads the target with the source's student. freeze+K: the head and the top
    K layers, learnt at the source, put into the target's. adapter-src, -trg, -joint: bottlenecks after each layer, the
    rest frozen; joint: one set for both students. bitfit-src, -trg, -joint: biases alone. sft: what full-src changed in
    the source's weights, added to the target's. distil: full-trg, also held to the logits of the tuned teacher.

    Tasks stand under transfer.tasks in the configuration. Run again after a stop: what is measured is not done again.
    """
    from orchestrator.display import watching
    from orchestrator.progress import transfer_progress
    from orchestrator.steps import transferring
    from orchestrator.tables import print_transfer

    request = transferring.TransferRequest(
        source=source,
        tasks=options.listed(task),
        targets=options.listed(target),
        modes=options.listed(mode),
        models=tuple(model or ()),
        teacher=teacher,
        num_seeds=seeds,
    )
    with driving(run) as cluster:
        plans = transferring.plan_transfer(run, request)
        state = transferring.begin(run, plans)
        with watching(lambda: transfer_progress(state)):
            transferring.transfer(run, plans, cluster.get, state=state)
    print_transfer(transferring.transfer_lines(run, plans))


@run_command("report", example="orch report && xdg-open runs/orch/report/index.html", panel=WORK)
def report(run: Run) -> None:
    """Write one HTML page with tables and plots of everything that was measured in the run."""
    from orchestrator import pipeline
    from orchestrator.tables import print_headline

    with pipeline.driving(run):
        page = pipeline.write_report(run)
    print_headline(run)
    typer.echo(f"Report: {page.resolve().as_uri()}")


@command(app, "sweep", example="orch sweep sweep.yaml --plan", panel=WORK)
def sweep(
    spec: Annotated[Path, typer.Argument(help="Base, grid, seeds; see docs/sweeps.md.")] = Path("sweep.yaml"),
    plan: Annotated[bool, typer.Option("--plan", help="Show cells, what they share, time; train nothing.")] = False,
    parallel: Annotated[int | None, typer.Option(help="Cells at once; default: one per core.", min=1)] = None,
    address: AddressOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Train a grid of configurations with several seeds, and compare them in one table.

    Cells share text, signals and vocabularies; a cell that fails stops no other. Run again after a stop: it goes on.
    """
    log_to_terminal(verbose=verbose)
    from orchestrator.display import stage, watching
    from orchestrator.sweep.opening import open_sweep
    from orchestrator.sweep.planning import make_sweep_plan
    from orchestrator.sweep.work import driving_sweep, run_sweep
    from orchestrator.tables import print_comparison, print_failures, print_sweep_plan

    opened = open_sweep(spec, address=address)
    if plan:
        print_sweep_plan(make_sweep_plan(opened, parallel=parallel))
        return
    with driving_sweep(opened) as cluster:
        result = run_sweep(opened, cluster, parallel=parallel, stage=stage, watch=watching)
    print_comparison(result.comparison)
    print_failures(result.failures)
    typer.echo(f"Comparison: {result.page.resolve().as_uri()}")
    raise typer.Exit(1 if result.failures else 0)
