"""The watchdog: gives a child its inputs, and sees a signal, a hang or memory past the cap as such."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

#: Of the child's own computing, so that others who use the machine make no hang; and of the clock, for one that sleeps.
LONGEST_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 60.0
MEGABYTES = 1024
_START_SECONDS = 600.0


@dataclass
class Verdicts:
    """What became of the inputs of one kind."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    peak_megabytes: int = 0

    def add(self, number: int, verdict: str, seconds: float) -> None:
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        if verdict.endswith("!") or seconds > LONGEST_SECONDS:
            self.violations.append((number, verdict if verdict.endswith("!") else f"{verdict} after {seconds:.1f} s!"))
            verdict = "violation"
        self.counts[verdict] += 1

    def figures(self) -> dict[str, object]:
        return {
            "inputs": self.counts.total(),
            **dict(sorted(self.counts.items())),
            "violations": self.violations,
            "slowest_seconds": self.slowest_seconds,
            "peak_megabytes": self.peak_megabytes,
        }


def fuzz(kinds: Sequence[str], count: int) -> Verdicts:
    """Judge `count` inputs, the kinds in turn, in processes of their own; one that dies is followed by another."""
    verdicts, first = Verdicts(), 0
    shelf = Path(tempfile.mkdtemp(prefix="orch-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        while first < count:
            first = _child(kinds, shelf / f"from-{first}", first, count - first, verdicts)
    finally:
        shutil.rmtree(shelf, ignore_errors=True)
    return verdicts


def _child(kinds: Sequence[str], folder: Path, first: int, count: int, verdicts: Verdicts) -> int:
    """Run one child until it is done or dead; returns the number that the next one begins with."""
    arguments = [",".join(kinds), str(folder), str(first), str(count), str(MEGABYTES)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.security.child", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stderr is not None
    begun: int | None = None
    hang: str | None = None
    is_done = False
    try:
        for line in _lines(process):
            if line.startswith("+"):
                begun = int(line[1:])
            elif line.startswith("-"):
                number, seconds, verdict = line[1:].split("\t")
                verdicts.add(int(number), verdict, float(seconds))
                begun = None
            elif line.startswith("done"):
                verdicts.peak_megabytes = max(verdicts.peak_megabytes, int(line.split("\t")[1]))
                is_done = True
    except TimeoutError as error:
        process.kill()
        hang = f"hang ({error})!"
    said = process.stderr.read().decode(errors="replace")
    status = process.wait()
    if begun is None:
        assert is_done, f"the child ended with {status} between inputs: {hang} {said[-2000:]}"
        return first + count
    ended = f"signal {-status}!" if status < 0 else f"exit {status}: {said.strip()[-200:]}!"
    verdicts.add(begun, hang or ended, 0.0)
    return begun + 1


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Lines of the child as they come. TimeoutError when it computes or sleeps for too long over one."""
    assert process.stdout is not None
    watched, buffer, has_begun = psutil.Process(process.pid), b"", False
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    since, cpu = time.monotonic(), 0.0
    while True:
        if selector.select(timeout=0.5):
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            yield from (line.decode() for line in lines)
            since, cpu, has_begun = time.monotonic(), _seconds(watched), True
            continue
        waited, computed = time.monotonic() - since, _seconds(watched) - cpu
        if has_begun and computed > 2 * LONGEST_SECONDS:  # the child itself counts exactly
            raise TimeoutError(f"{computed:.1f} s of computing")
        if waited > (LONGEST_WAIT_SECONDS if has_begun else _START_SECONDS):
            raise TimeoutError(f"{waited:.0f} s of waiting")


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
