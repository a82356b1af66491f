"""The rooms import only what docs/architecture.md allows; read from the source, so that nothing has to be imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("orchestrator/**/*.py"), *ROOT.glob("vocab_tools/**/*.py")])
#: The package's own `__init__` holds the version, and is no room.
PACKAGE = ROOT / "orchestrator" / "__init__.py"
HEAVY = {"torch", "ray", "transformers", "datasets"}


def table() -> dict[str, set[str]]:
    """Room -> what it may import, from the first table of the document."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = text.partition("| room | does | may import |\n")[2].splitlines()[1:]
    rooms = {}
    for line in lines:
        if not line.startswith("|"):
            break
        room, _, imports = (cell.strip() for cell in line.strip("|").split("|"))
        rooms[room] = set() if imports == "–" else {name.strip() for name in imports.split(",")}
    return rooms


ROOMS = table()


def room_of(path: Path) -> str:
    """`vocab_tools`, or the first name below `orchestrator`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "vocab_tools" else parts[1]


@dataclass(frozen=True)
class Import:
    """One imported module; `at_top`: when the file itself is imported, not later."""

    module: str
    at_top: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def room(self) -> str | None:
        """The room of this project that it is in; None for libraries and for the version."""
        parts = self.module.split(".")
        if parts[0] == "vocab_tools":
            return "vocab_tools"
        return parts[1] if parts[0] == "orchestrator" and parts[1:] not in ([], ["__version__"]) else None


def imports(path: Path) -> Iterator[Import]:
    """Every import; `from orchestrator import x` is an import of the room x."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, id(node) in top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            names = [f"orchestrator.{alias.name}" for alias in node.names] if node.module == "orchestrator" else []
            for module in names or [str(node.module)]:
                yield Import(module, id(node) in top)


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def test_the_table_names_every_room_and_no_other() -> None:
    there = {room_of(path) for path in FILES if path != PACKAGE}
    assert set(ROOMS) == there
    for room, allowed in ROOMS.items():
        assert allowed <= there - {room}, room


def test_the_table_allows_nothing_that_goes_in_a_circle() -> None:
    left = dict(ROOMS)
    while left:
        free = [room for room, allowed in left.items() if not allowed & left.keys()]
        assert free, f"these import each other: {sorted(left)}"
        for room in free:
            del left[room]


@every_file
def test_imports_follow_the_table(path: Path) -> None:
    if path == PACKAGE:
        assert not [found for found in imports(path) if found.room]
        return
    room = room_of(path)
    for found in imports(path):
        assert found.room is None or found.room == room or found.room in ROOMS[room], f"{room}: {found.module}"
        assert found.package != "ray" or room == "cluster", "ray belongs to cluster"


@every_file
def test_only_config_reads_yaml(path: Path) -> None:
    if path == PACKAGE or room_of(path) == "config":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml"
    }
    assert used <= {"safe_dump"}


@every_file
def test_what_starts_often_starts_light(path: Path) -> None:
    if room_of(path) in {"cli", "vocab_tools", "config", "errors", "records", "storage", "run", "steps", "cluster"}:
        at_top = {found.package for found in imports(path) if found.at_top}
        assert not at_top & HEAVY, "import it where it is used"
    if room_of(path) == "cli":
        assert {found.room for found in imports(path) if found.at_top} <= {None, "cli", "commands", "options"}


def test_every_file_can_be_read_in_one_sitting() -> None:
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert not long
