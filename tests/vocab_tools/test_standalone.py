"""The package stands alone, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

HEAVY = ("torch", "ray", "transformers", "tokenizers", "sentencepiece", "pyarrow", "orchestrator")


def test_import_pulls_in_nothing_heavy_and_nothing_of_the_orchestrator() -> None:
    code = f"import sys, vocab_tools.cli, vocab_tools.commands; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_file_names_the_orchestrator_in_an_import() -> None:
    files = list((Path(__file__).resolve().parents[2] / "vocab_tools").glob("*.py"))
    assert len(files) > 10
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.strip().startswith(("import orchestrator", "from orchestrator"))]


def test_the_commands_run_where_the_orchestrator_is_not(tmp_path: Path) -> None:
    package = Path(__file__).resolve().parents[2] / "vocab_tools"
    shutil.copytree(package, tmp_path / "vocab_tools", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-P", "-m", "vocab_tools", "union", "nowhere/at/all", "--out", "x"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert found.stderr.startswith("vocab: nowhere/at/all does not exist")
    blocked = "import sys; sys.modules['orchestrator'] = None; import vocab_tools; print(vocab_tools.__file__)"
    found = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.startswith(str(tmp_path))


def test_it_can_be_installed_alone_with_what_it_imports() -> None:
    root = Path(__file__).resolve().parents[2]
    alone, whole = (
        tomllib.loads((root / file).read_text()) for file in ("vocab_tools/pyproject.toml", "pyproject.toml")
    )
    project = alone["project"]
    needs = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    assert set(needs) <= set(whole["project"]["dependencies"])
    names = {re.split(r"[^\w-]", need)[0] for need in needs}
    sources = " ".join(file.read_text(encoding="utf-8") for file in (root / "vocab_tools").glob("*.py"))
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", sources, re.MULTILINE))
    known = sys.stdlib_module_names | {"vocab_tools", "google"}  # google is protobuf's
    assert imported - known <= names
