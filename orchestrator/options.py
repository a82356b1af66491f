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
