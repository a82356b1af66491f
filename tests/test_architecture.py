"""The rooms import only what docs/architecture.md allows; read from the source, so that nothing has to be imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {"records", "config", "errors", "storage"}
ROOMS = {
    "errors": set(),
    "records": set(),
    "storage": {"errors"},
    "config": {"errors"},
    "losses": set(),
    "cluster": {"errors", "storage"},
    "corpus": PLAIN,
    "signals": PLAIN,
    "models": PLAIN,
    "teachers": PLAIN | {"corpus", "signals", "models", "vocab_tools"},
    "students": PLAIN | {"corpus", "signals", "models", "losses", "vocab_tools"},
    "evaluation": PLAIN | {"corpus", "signals", "models", "vocab_tools"},
    "report": PLAIN,
    "display": {"progress", "planning", "report", "steps", "run", "teachers", "config"},
    "cli": {"pipeline", "config", "errors", "run", "display", "demo", "planning", "progress", "steps", "vocab_tools"},
}
#: Libraries that only one room may touch.
OWNED = {"ray": "cluster", "yaml": "config"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "vocab_tools" else (parts[1] if len(parts) > 1 else "")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, at the top level of the file) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, id(node) in top)]
    return found


FILES = sorted([*ROOT.glob("orchestrator/**/*.py"), *ROOT.glob("vocab_tools/**/*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_plan(path: Path) -> None:
    room = room_of(path)
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "orchestrator" and len(parts) > 1 and room in ROOMS:
            assert parts[1] == room or parts[1] in ROOMS[room], f"{room} may not import {module}"
        if parts[0] == "vocab_tools" and room in ROOMS:
            assert "vocab_tools" in ROOMS[room], f"{room} may not import {module}"
        if parts[0] == "orchestrator":
            assert room != "vocab_tools", f"vocab_tools stands alone, yet imports {module}"
        if parts[0] in OWNED and room != "pipeline":
            assert room == OWNED[parts[0]], f"{parts[0]} belongs to {OWNED[parts[0]]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_and_vocab_tools_start_light(path: Path) -> None:
    heavy = {"torch", "ray", "transformers", "datasets"}
    if room_of(path) in {"cli", "vocab_tools", "config", "errors", "records", "storage"}:
        for module, at_top in imports(path):
            assert not (at_top and module.split(".")[0] in heavy), f"{path.name} imports {module} at start-up"


def test_every_file_can_be_read_in_one_sitting() -> None:
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert not long
