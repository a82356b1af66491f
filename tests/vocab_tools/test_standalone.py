"""The package stands alone, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
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
