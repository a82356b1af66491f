"""Files that ship with orch: the starter configuration, the recipes, and the text of the demo."""

from __future__ import annotations

from pathlib import Path


def configs_folder() -> Path:
    """`configs/`: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"
