"""Files that ship with orch: the starter configuration, the recipes, and the text of the demo."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.storage import write_bytes


def configs_folder() -> Path:
    """`configs/`: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def write_starter(path: Path, *, force: bool) -> None:
    """Copy the commented starter configuration to `path`; ConfigError when a file is there and `force` is off."""
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; edit it, name another file, or replace it with --force.")
    write_bytes(path, (configs_folder() / "starter.yaml").read_bytes())
