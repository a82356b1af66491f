"""Readers meet damaged and forged files: a clear error or a correct read, never a signal, a hang or a wrong row.

Each input is judged in a child process with a limit on its memory and a watchdog (`watching.py`). Seven in ten forged
files have every checksum made anew, so that what lies behind the checksums is reached.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.security import figures
from tests.security.rehearsal import TROUBLE
from tests.security.targets import TARGETS
from tests.security.watching import Verdicts, fuzz

pytestmark = pytest.mark.timeout(6 * 3600)

#: Inputs of the long form; shards have the most ways to be wrong.
LONG = {
    "manifest": 9_000,
    "receipt": 9_000,
    "shard": 15_000,
    "mapping": 10_000,
    "config": 9_000,
    "corpus": 6_000,
    "checkpoint": 5_000,
    "tokenizer": 5_000,
}


@pytest.mark.skipif(figures.IS_LONG, reason="the long form has more of each kind")
def test_all_readers_survive() -> None:
    check(fuzz(sorted(TARGETS), 1_600), 1_600)


@pytest.mark.skipif(not figures.IS_LONG, reason="a minute for each kind: `make fuzz`")
@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_readers_survive(kind: str) -> None:
    verdicts = fuzz([kind], LONG[kind])
    figures.measured[f"mutations of {kind}"] = verdicts.figures()
    check(verdicts, LONG[kind])


@pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris: pip install 'orch-distill[fuzz]'")
@pytest.mark.skipif(not figures.IS_LONG, reason="minutes for each kind: `make fuzz`")
@pytest.mark.parametrize("kind", sorted({*TARGETS} - {"checkpoint", "tokenizer"}))
def test_readers_survive_whatever_reaches_new_lines(tmp_path: Path, kind: str) -> None:
    """Guided by coverage; libFuzzer sees signals, hangs over 10 s and more than 2 GB."""
    runs = 4_000
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.guided", kind, str(tmp_path), str(runs)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    counted = re.findall(r"#(\d+)\s+(?:DONE|REDUCE|NEW|INITED|pulse)\s+cov: (\d+)", done.stderr)
    inputs, first, last = int(counted[-1][0]), int(counted[0][1]), int(counted[-1][1])
    figures.measured[f"coverage-guided {kind}"] = {"inputs": 2 * inputs, "edges": [first, last], "violations": []}
    assert inputs >= runs


def check(verdicts: Verdicts, count: int) -> None:
    assert verdicts.violations == []
    assert verdicts.counts.total() == count
    assert verdicts.counts["refused"] > 0.2 * count
    assert verdicts.counts["read as it stands"] > 0


def test_what_the_watchdog_is_there_for_is_seen() -> None:
    verdicts = fuzz(["rehearsal"], 9)
    assert [(number, seen.partition(" (")[0]) for number, seen in verdicts.violations] == [*TROUBLE.items()]
    assert verdicts.counts == {"refused": 5, "violation": 4}
