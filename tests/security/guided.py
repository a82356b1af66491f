"""Fuzzing that follows the branches of the readers: `python -m tests.security.guided KIND FOLDER RUNS`, with atheris.

libFuzzer makes the content of one file, from sound ones and from whatever reached a new line of orch before; each is
judged as it is, and with every checksum made anew.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]


def main() -> None:
    """Judge RUNS inputs of a kind; a violation ends the process with a traceback, and the input in FOLDER."""
    kind, folder, runs = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["orchestrator", "vocab_tools"], enable_loader_override=False):
        from tests.security.judging import Fuzzer

    fuzzer = Fuzzer(kind, folder / "made")
    names = fuzzer.target.mutated
    seeds = folder / "seeds"
    seeds.mkdir()
    for index, name in enumerate(names):
        (seeds / str(index)).write_bytes(bytes([index]) + fuzzer.target.sound[name])
    longest = max(len(fuzzer.target.sound[name]) for name in names) + 256

    def judge(data: bytes) -> None:
        name = names[data[0] % len(names)] if data else names[0]
        for forged in (False, True):
            verdict = fuzzer.judge(name, bytes(data[1:]), forged=forged)
            if verdict.endswith("!"):
                raise AssertionError(f"{name}, forged {forged}: {verdict}")

    options = [f"-runs={runs}", f"-max_len={longest}", "-timeout=10", "-rss_limit_mb=2048", "-seed=1", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(seeds)], judge)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
