"""Readers meet damaged and forged files: a clear error or a correct read, never a signal, a hang or a wrong row.

Each input is judged in a child process with a limit on its memory and a watchdog (`watching.py`). Seven in ten forged
files have every checksum made anew, so that what lies behind the checksums is reached.
"""

from __future__ import annotations

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


def check(verdicts: Verdicts, count: int) -> None:
    assert verdicts.violations == []
    assert verdicts.counts.total() == count
    assert verdicts.counts["refused"] > 0.2 * count
    assert verdicts.counts["read as it stands"] > 0


def test_what_the_watchdog_is_there_for_is_seen() -> None:
    verdicts = fuzz(["rehearsal"], 9)
    assert [(number, seen.partition(" (")[0]) for number, seen in verdicts.violations] == [*TROUBLE.items()]
    assert verdicts.counts == {"refused": 5, "violation": 4}
