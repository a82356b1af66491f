"""The command line before any work: it starts fast, teaches, and says what is wrong."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.config.loading import load_config
from orchestrator.config.setups import expand
from tests.e2e.command import orch

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    "init",
    "plan",
    "demo",
    "run",
    "precompute-teacher",
    "build-vocab",
    "train-students",
    "evaluate",
    "transfer",
    "report",
    "status",
    "verify",
    "inspect",
    "sweep",
    "recipes",
    "config show",
]
HEAVY = {"torch", "ray", "transformers", "datasets", "numpy", "pyarrow", "pydantic", "yaml", "vocab_tools"}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_help_imports_nothing_heavy_and_is_there_at_once() -> None:
    code = (
        "import sys\nfrom orchestrator.cli import main\ntry: main()\nexcept SystemExit: print('LOADED', *sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = python(code, "--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = {name.partition(".")[0] for name in out.rpartition("LOADED")[2].split()}
    assert "typer" in loaded
    assert not loaded & HEAVY
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6  # 0.15 s on a quiet machine


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_by_an_example(name: str, tmp_path: Path) -> None:
    result = orch(*name.split(), "--help", folder=tmp_path)
    assert (result.status, result.err) == (0, "")
    assert f"orch {name}" in result.out.partition("Example")[2]
    assert max(map(len, result.out.splitlines())) <= 80


def test_the_help_lists_every_command(tmp_path: Path) -> None:
    out = orch("-h", folder=tmp_path).out
    assert all(f"│ {name.partition(' ')[0]} " in out for name in [*COMMANDS, "vocab"])


def test_the_version(tmp_path: Path) -> None:
    assert orch("--version", folder=tmp_path).out == f"orch {__version__}\n"


def test_a_command_that_is_none(tmp_path: Path) -> None:
    result = orch("statsu", folder=tmp_path)
    assert result.status == 2
    assert "Did you mean 'status'?" in result.err


def test_init_writes_a_starter_once(tmp_path: Path) -> None:
    assert "Wrote orch.yaml" in orch("init", folder=tmp_path).out
    (tmp_path / "orch.yaml").write_text("mine")
    result = orch("init", folder=tmp_path)
    assert (result.status, result.err[:32]) == (1, "orch: orch.yaml is there already")
    assert (tmp_path / "orch.yaml").read_text() == "mine"
    assert orch("init", "--force", folder=tmp_path).status == 0
    assert load_config(tmp_path / "orch.yaml").run.setup == "one-to-one"
    assert "Wrote other/orch.yaml" in orch("init", "other/orch.yaml", folder=tmp_path).out


def test_the_configuration_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_CONFIG", "elsewhere.yaml")
    assert "There is no configuration at elsewhere.yaml" in orch("plan", folder=tmp_path).err


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "configs").glob("**/*.yaml") if path.parent.name not in ("recipes", "cluster")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    assert expand(load_config(path)).students


def test_the_tools_for_vocabularies_are_at_hand(tmp_path: Path) -> None:
    result = orch("vocab", "--help", folder=tmp_path)
    assert result.status == 0
    assert "Usage: orch vocab" in result.out


def test_recipes_are_listed_and_shown(tmp_path: Path) -> None:
    out = orch("recipes", folder=tmp_path).out
    for path in (ROOT / "configs" / "recipes").glob("*.yaml"):
        assert f"{path.stem}  " in out
    assert max(map(len, out.splitlines())) <= 92  # the last line can be copied whole
    assert orch("recipes", "pkd", folder=tmp_path).out == (ROOT / "configs/recipes/pkd.yaml").read_text()
    result = orch("recipes", "tinybart", folder=tmp_path)
    assert (result.status, result.out) == (1, "")
    assert "did you mean 'tinybert'?" in result.err


def test_a_configuration_is_shown_as_it_runs(tmp_path: Path) -> None:
    source = ROOT / "configs" / "one-to-many.yaml"
    result = orch("config", "show", "-c", str(source), "--set", "recipe=sid", folder=tmp_path)
    assert (result.status, result.err) == (0, "")
    assert "#   en-de (student): en from multilingual, de from multilingual" in result.out
    (tmp_path / "again.yaml").write_text(result.out)
    again = load_config(tmp_path / "again.yaml")
    assert again == load_config(source, overrides=["recipe=sid"])
    assert [phase.name for phase in again.phases] == ["stacked", "output"]
    everything = orch("config", "show", "-c", "again.yaml", "--all", "--setup", "one-to-one", folder=tmp_path).out
    assert "setup: one-to-one" in everything
    assert "checkpoint_seconds: 120.0" in everything
    wrong = orch("config", "show", "-c", "again.yaml", "--setup", "one-to-two", folder=tmp_path)
    assert "--setup one-to-two: no such setup; did you mean 'one-to-one'?" in wrong.err


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "from orchestrator.cli import main\nmain()"
    command = f"{sys.executable} -c '{code}' --help | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert "Traceback" not in ended.stderr
