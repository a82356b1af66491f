"""The tables of the command line: what a run will take, what teachers said, what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from orchestrator.display import console, duration, plain_table, say, size

if TYPE_CHECKING:
    from orchestrator.config.recipes import Recipe
    from orchestrator.planning import RunPlan, Time
    from orchestrator.report.comparison import Comparison
    from orchestrator.run import Run
    from orchestrator.steps.inspecting import InspectedRow, MaskedToken
    from orchestrator.sweep.planning import SweepPlan
    from orchestrator.sweep.work import Failure
    from orchestrator.transfer.summary import Figure, Line


def print_plan(plan: RunPlan) -> None:
    """What `orch plan` found."""
    say(f"[bold]Setup {plan.setup}[/] in {escape(str(plan.root))}, signals {plan.mode}")
    languages = plain_table(words=("student", "language", "teacher"), numbers=("texts", "tokens", "share", "epochs"))
    for line in plan.languages:
        languages.add_row(
            line.student,
            line.language,
            line.teacher,
            f"{line.texts:,}",
            f"{line.tokens:,}",
            f"{line.share:.1%}",
            f"{line.epochs:.1f}",
        )
    console.print(languages)
    console.print()
    numbers = ("rows", "tokens", "shards", "missing", "bytes/token", "on disk", "time")
    teachers = plain_table(words=("teacher",), numbers=numbers)
    for teacher in plan.teachers:
        teachers.add_row(
            teacher.name,
            f"{teacher.rows:,}",
            f"{teacher.tokens:,}",
            str(teacher.shards),
            str(teacher.missing),
            f"{sum(teacher.bytes_per_token.values()):.0f}",
            size(teacher.num_bytes),
            _time(teacher.time),
        )
    console.print(teachers)
    for teacher in plan.teachers:
        parts = " + ".join(f"{table} {value:.1f}" for table, value in teacher.bytes_per_token.items())
        say(f"[dim]{escape(teacher.name)}, bytes per token: {parts}[/]")
    for vectors in plan.sentences:
        say(f"[dim]{escape(vectors.name)}: vectors of {vectors.sentences:,} sentences, {size(vectors.num_bytes)}[/]")
    console.print()
    students = plain_table(words=("student", "role"), numbers=("encoder", "steps", "tokens", "time"))
    for student in plan.students:
        students.add_row(
            student.name,
            student.role,
            f"{student.encoder_parameters / 1e6:.1f} M",
            f"{student.steps:,}",
            f"{student.tokens:,}",
            _time(student.time),
        )
    console.print(students)
    console.print()
    _print_totals(plan)


def _print_totals(plan: RunPlan) -> None:
    sides = f", {plan.side_by_side} groups side by side" if plan.side_by_side > 1 else ""
    say(
        f"Time: about {duration(plan.teacher_seconds)} for the teachers, {duration(plan.training_seconds)} for the "
        f"students{sides}."
    )
    if plan.gemm_flops is not None:
        say(
            f"[dim]~ is rough, from a matrix product of {plan.gemm_flops / 1e9:,.0f} GFLOP/s on this machine; once the "
            "run has begun, orch plan uses its own speed.[/]"
        )
    if plan.mode == "live":
        held = sum(teacher.held_bytes for teacher in plan.teachers)
        say(
            "Live: teachers answer while students train, as often as these read; of the signals only masked text is on "
            f"disk, and at most about {size(held)} of the rest are held at a time."
        )
    elif plan.mode == "hybrid":
        say("Hybrid: teachers answer while students train, and what they say is stored and read afterwards.")
    needed = sum(teacher.missing_bytes for teacher in plan.teachers)
    _say_room(needed, plan.free_bytes)
    if plan.free_bytes is not None and needed > plan.free_bytes:
        say("[red]The signals do not fit on this disk[/]: lower soft-targets.k, keep fewer layers, or move run.root.")


def _say_room(needed: float, free: int | None) -> None:
    """What is to come, and what the disk has; of an object store nobody knows how much it takes."""
    say(f"Disk: {size(needed)} of signals to come{f', {size(free)} free' if free is not None else ''}.")


def _time(time: Time) -> str:
    return duration(time.seconds) if time.is_measured or not time.seconds else f"~{duration(time.seconds)}"


def print_inspection(rows: Sequence[InspectedRow]) -> None:
    """What `orch inspect` found: each row, then its masked tokens with the teacher's guesses."""
    for row in rows:
        say(f"[bold]{escape(row.title)}[/]")
        console.print(_numbered(row))
        has_guesses = any(masked.guesses for masked in row.masked)
        table = plain_table(words=(), numbers=("",))
        for name in ("student sees", "truth"):
            table.add_column(name, no_wrap=True)
        if has_guesses:
            table.add_column("p", justify="right", no_wrap=True)
            table.add_column("the teacher's guesses")
        for number, masked in enumerate(row.masked, start=1):
            cells = [f"[cyan]{number}[/]", escape(masked.shown), escape(masked.truth)]
            table.add_row(*cells, *([_probability(masked), _guesses(masked)] if has_guesses else []))
        console.print(table)
        console.print()
    answered = [token for row in rows for token in row.masked if token.guesses]
    if answered:
        right = sum(token.guesses[0].token == token.truth for token in answered)
        say(f"The teacher's first guess is right at {right} of {len(answered)} masked positions.")


def _numbered(row: InspectedRow) -> str:
    """The text with a number where a token is masked."""
    parts = [escape(row.pieces[0])]
    for number, piece in enumerate(row.pieces[1:], start=1):
        parts += [f"[cyan]\\[{number}][/]", escape(piece)]
    return "".join(parts)


def _probability(masked: MaskedToken) -> str:
    """Of the truth; where it is not among the ids that are stored, what it is below."""
    value = masked.truth_probability
    return f"{value:.3f}" if masked.truth_is_stored else f"[dim]<{max(value, 0.001):.3f}[/]"


def _guesses(masked: MaskedToken) -> str:
    return "  ".join(
        f"[green]{escape(guess.token)}[/] {guess.probability:.2f}"
        if guess.token == masked.truth
        else f"{escape(guess.token)} {guess.probability:.2f}"
        for guess in masked.guesses
    )


def print_recipes(recipes: Sequence[Recipe]) -> None:
    """What `orch recipes` found."""
    for recipe in recipes:
        needs = " · ".join(recipe.signals) or "nothing of a teacher"
        say(f"[bold]{recipe.name}[/]  {escape(recipe.cited)}  [dim]reads {needs}[/]")
        console.print(Padding(Text(f"{recipe.summary}."), (0, 0, 0, 2)))
    console.print()
    say("[dim]`recipe: NAME` in a configuration, or --set recipe=NAME; `orch recipes NAME` shows its file.[/]")


def print_headline(run: Run) -> None:
    """The measured figures of a run, as the report's first table shows them."""
    from orchestrator.report.headline import ROLE_WORDS, decimal, headline, means, percent
    from orchestrator.report.reading import read_metrics

    rows = headline(read_metrics(run.metrics_path))
    if not rows:
        say("Nothing is measured yet; run `orch evaluate`.")
        return
    table = plain_table(words=("language", "model", "role"), numbers=("accuracy", "bits/char", "agreement", "KL"))
    language = ""
    for row in [*rows, *means(rows)]:
        figures = row.figures
        cells = {
            "accuracy": percent(figures.accuracy),
            "bits_per_character": decimal(figures.bits_per_character),
            "agreement": percent(figures.agreement),
            "kl": decimal(figures.kl),
        }
        table.add_row(
            "" if row.language == language else row.language,
            row.name,
            ROLE_WORDS[row.role].replace(" ", "\u00a0"),
            *(f"[bold]{text}[/]" if name in row.best else text for name, text in cells.items()),
        )
        language = row.language
    console.print(table)
    say("[dim]Held-out text. Agreement and KL (nats) are with the teacher; bold is the best of the small models.[/]")


def print_sweep_plan(plan: SweepPlan) -> None:
    """What `orch sweep --plan` found."""
    say(f"[bold]Sweep[/] in {escape(str(plan.root))}, compared with {escape(plan.reference)}")
    cells = plain_table(words=("cell",), numbers=("encoder", "steps", "trained", "time"))
    for cell in plan.cells:
        cells.add_row(
            escape(cell.name),
            f"{sum(student.encoder_parameters for student in cell.students) / 1e6:.1f} M",
            "as timed" if cell.is_open else f"{max(student.steps for student in cell.students):,}",
            f"{cell.done} of {cell.runs}",
            f"{'' if cell.is_measured else '~'}{duration(cell.seconds)}",
        )
    console.print(cells)
    console.print()
    values = plain_table(words=("cell", "sets"))  # apart from the numbers, beside which nothing has room
    for cell in plan.cells:
        values.add_row(escape(cell.name), escape(cell.sets) or "nothing")
    console.print(values)
    console.print()
    shared = plain_table(words=("shared",), numbers=("tokens", "shards", "missing", "on disk", "time"))
    for share in plan.shares:
        for teacher in share.teachers:
            shared.add_row(
                escape(f"{teacher.name}, seed {share.seed}, {len(share.cells)} cells"),
                f"{teacher.tokens:,}",
                str(teacher.shards),
                str(teacher.missing),
                size(teacher.num_bytes),
                _time(teacher.time),
            )
    console.print(shared)
    say("[dim]Each teacher reads a text once, whatever its cells ask.[/]")
    say("[dim]~ is rough: from the speed that other cells reached, and before any did from a matrix product here.[/]")
    say(
        f"Time: about {duration(plan.teacher_seconds)} for the teachers, {duration(plan.training_seconds)} for the "
        f"students, {'one cell' if plan.parallel == 1 else f'{plan.parallel} cells'} at a time; evaluation is extra."
    )
    _say_room(plan.missing_bytes, plan.free_bytes)


def print_comparison(comparison: Comparison) -> None:
    """The table of a sweep, measure by measure: means, and how far each cell is from the reference."""
    from orchestrator.report.comparison import difference_words, legend, mean_words

    for measure in comparison.measures:
        unit = ", %" if measure.is_share else ""
        table = plain_table(words=(f"{measure.title}{unit}",), numbers=("mean", "difference [95 %]"))
        for cell in comparison.cells:
            figure = cell.figures.get(measure.name)
            if figure is not None:
                gap = "" if figure.difference is None else escape(difference_words(measure, figure.difference))
                best = comparison.best(measure) == cell.name
                mean = mean_words(measure, figure)
                table.add_row(escape(cell.name), f"[bold]{mean}[/]" if best else mean, gap)
        console.print(table)
        console.print()
    say(f"[dim]{escape(legend(comparison))}[/]")


def print_failures(failures: Sequence[Failure]) -> None:
    """The cells of a sweep that are not in its table."""
    for failure in failures:
        say(f"[red]✗[/] {escape(failure.cell.name)}: {escape(failure.reason)}")
    if failures:
        say("The other cells are done; mend that and run the same command again.")


def print_transfer(lines: Sequence[Line]) -> None:
    """What `orch transfer` measured: a table per task, its best value of each language marked."""
    for task, metric in dict.fromkeys((line.task, line.metric) for line in lines):
        own = [line for line in lines if line.task == task]
        targets = list(dict.fromkeys(target for line in own for target in line.figures))
        best = {target: max(line.figures[target].mean for line in own if target in line.figures) for target in targets}
        say(f"[bold]{escape(task)}[/], {metric.replace('_', ' ')} in %, learnt in {own[0].source}")
        table = plain_table(words=("model", "mode"), numbers=("trained", *targets))
        for line in own:
            cells = [_figure(line.figures.get(target), best[target]) for target in targets]
            table.add_row(escape(line.model), line.mode, f"{line.trained_parameters:,}", *cells)
        console.print(table)
        console.print()


def _figure(figure: Figure | None, best: float) -> str:
    if figure is None:
        return ""
    text = f"{100 * figure.mean:.1f}" + (f" ± {100 * figure.spread:.1f}" if figure.spread is not None else "")
    return f"[bold]{text}[/]" if figure.mean == best else text
