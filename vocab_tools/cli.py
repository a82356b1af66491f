"""The commands of `orch vocab`: union, trim, show, check. Each parses, calls one function and prints."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vocab_tools.errors import VocabularyError

app = typer.Typer(no_args_is_help=True, help="Unions and trims of tokenizer vocabularies, without a run.")


class Merge(StrEnum):
    """When two tokens are one."""

    canonical = "canonical"
    surface = "surface"


OutOption = Annotated[Path, typer.Option("--out", help="The folder to write; appears complete or not at all.")]
CorpusOption = Annotated[
    list[str] | None,
    typer.Option("--corpus", metavar="LANG=FILE", help="Text of a language, one text a line (or .parquet); repeat it."),
]
MaxSizeOption = Annotated[int | None, typer.Option("--max-size", min=16, help="Keep the most frequent tokens only.")]
MinCountOption = Annotated[int, typer.Option("--min-count", min=1, help="Drop tokens that occur less often.")]
WidthOption = Annotated[
    list[int] | None,
    typer.Option("--width", min=1, help="Count the embedding's parameters at this width; repeat it."),
]


@app.command()
def union(
    tokenizers: Annotated[list[str], typer.Argument(metavar="PATH_OR_NAME...", help="Folders, files or hub names.")],
    out: OutOption,
    merge: Annotated[
        Merge, typer.Option(help="What counts as one token; surface: only equal strings.")
    ] = Merge.canonical,
    corpus: CorpusOption = None,
    route: Annotated[
        list[str] | None,
        typer.Option(metavar="LANG=NAME", help="The teacher of a language; default: the one that cuts it least."),
    ] = None,
    min_count: MinCountOption = 1,
    max_size: MaxSizeOption = None,
    width: WidthOption = None,
) -> None:
    """One vocabulary of several tokenizers; with --corpus only of what these texts use.

    Example:  orch vocab union bert-base-cased/ xlm-roberta-base/ --out union
    """
    with _one_sentence():
        from vocab_tools.commands import run_union

        typer.echo(
            run_union(
                tokenizers,
                out,
                merge=merge.value,
                corpus=corpus or [],
                routes=route or [],
                min_count=min_count,
                max_size=max_size,
                widths=width,
            )
        )


@app.command()
def trim(
    tokenizer: Annotated[str, typer.Argument(metavar="PATH_OR_NAME", help="A folder, a file or a hub name.")],
    out: OutOption,
    corpus: CorpusOption = None,
    min_count: MinCountOption = 1,
    min_frequency: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Drop tokens that are a smaller share of the text.")
    ] = 0.0,
    max_size: MaxSizeOption = None,
    teacher_mass: Annotated[
        bool | None,
        typer.Option(
            "--teacher-mass/--no-teacher-mass",
            help="Ask the model what it gives to dropped tokens on held-out text.",
            show_default="if the folder holds a model",
        ),
    ] = None,
    width: WidthOption = None,
) -> None:
    """The part of one vocabulary that languages use.

    Example:  orch vocab trim xlm-roberta-base/ --corpus de=de.txt --corpus fr=fr.txt --out de-fr
    """
    with _one_sentence():
        from vocab_tools.commands import run_trim

        typer.echo(
            run_trim(
                tokenizer,
                out,
                corpus=corpus or [],
                min_count=min_count,
                min_frequency=min_frequency,
                max_size=max_size,
                teacher_mass=teacher_mass,
                widths=width,
            )
        )


@app.command()
def show(folder: Annotated[Path, typer.Argument(help="What union or trim wrote.")], width: WidthOption = None) -> None:
    """The report of a vocabulary as text.

    Example:  orch vocab show union
    """
    with _one_sentence():
        from vocab_tools.commands import run_show

        typer.echo(run_show(folder, widths=width))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="What union or trim wrote.")],
    text: Annotated[Path, typer.Option(help="Texts, one a line (or .parquet).")],
    teacher: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where a teacher's tokenizer is now; default: where it was."),
    ] = None,
) -> None:
    """Check every hash, and on text that each student tokenizer says what its teacher's says.

    Example:  orch vocab check union --text sample.txt
    """
    with _one_sentence():
        from vocab_tools.commands import run_check

        typer.echo(run_check(folder, text, teachers=teacher or []))


def main() -> None:
    """The same commands without orch, for `python -m vocab_tools`; SIGTERM stops them as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="vocab_tools")


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Errors and Ctrl-C as one sentence after the name of the program."""
    try:
        yield
        sys.stdout.flush()
    except VocabularyError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped; nothing was written or changed", 130)
    except BrokenPipeError:  # a pager that was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None


def _fail(message: str, status: int) -> NoReturn:
    typer.secho("vocab: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(message, err=True)
    raise typer.Exit(status) from None
