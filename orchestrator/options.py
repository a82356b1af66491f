"""The options that the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("orch.yaml")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="ORCH_CONFIG", help="The configuration of the run.", show_default=True)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override one value, as in --set training.steps=200; may be repeated.", metavar="KEY=VALUE"
    ),
]
SetupOption = Annotated[
    str | None,
    typer.Option("--setup", help="one-to-one, many-to-one, one-to-many or explicit; default: run.setup of the file."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        help="A Ray cluster (auto, HOST:PORT, ray://HOST:PORT); default: start Ray here. in-process: without Ray.",
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")]

NodesOption = Annotated[int | None, typer.Option(help="Plan for so many machines.", min=1)]
GpusOption = Annotated[int | None, typer.Option(help="GPUs of each of them; default: none, its cores compute.", min=0)]
TokensOption = Annotated[
    float | None, typer.Option(help="Tokens of text in all, as 1e9; default: what the configuration says, or has read.")
]
EpochsOption = Annotated[
    float | None, typer.Option(help="How often students read their text; default: as training.steps says.")
]
TeacherRateOption = Annotated[
    float | None, typer.Option("--teacher-tokens-per-second", help="Of a teacher on one GPU, or machine without.")
]
StudentRateOption = Annotated[
    float | None, typer.Option("--student-tokens-per-second", help="Of a group of students in training, likewise.")
]
TeraflopsOption = Annotated[
    float | None, typer.Option("--device-tflops", help="TFLOP/s of a big matrix product there, where no rate is known.")
]
NetworkOption = Annotated[
    float | None, typer.Option("--network-gbit", help="Gbit/s into and out of each machine; default: 10.", min=0.001)
]
StorageOption = Annotated[
    float | None, typer.Option("--storage-gbit", help="Gbit/s of the shared disk, for all together; default: no limit.")
]

SourceOption = Annotated[str, typer.Option("--source", help="The language of the labelled text that is learnt from.")]
TaskOption = Annotated[
    list[str] | None, typer.Option("--task", help="A name under transfer.tasks; default: every one.")
]
TargetOption = Annotated[
    list[str] | None, typer.Option("--target", help="Language to test in (de, or de,fi); default: all with test text.")
]
ModeOption = Annotated[
    list[str] | None, typer.Option("--mode", help="See above; default: all, with freeze+0 and freeze+1.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="SETUP, SETUP/STUDENT, a teacher's name, or a folder; default: the students of the setup."
    ),
]
ListenOption = Annotated[
    str | None,
    typer.Option("--teacher", help="Who mode distil listens to, a name or a folder; default: the students' own."),
]
SeedsOption = Annotated[int, typer.Option("--seeds", help="How many seeds, from run.seed on.", min=1)]


def listed(given: list[str] | None) -> tuple[str, ...]:
    """Repeated options, each of which may be a list with commas; each value once."""
    return tuple(dict.fromkeys(part.strip() for text in given or () for part in text.split(",") if part.strip()))
