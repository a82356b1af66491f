"""The process that meets the mutations: `python -m tests.security.child KINDS FOLDER FIRST COUNT MEGABYTES`.

It says a line before each input and one after it, so that whoever watches knows what killed it.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.memory import peak_resident_bytes

if TYPE_CHECKING:
    from tests.security.judging import Fuzzer
    from tests.security.rehearsal import Rehearsal


def main() -> None:
    """Judge inputs FIRST … FIRST + COUNT − 1, the kinds in turn, within MEGABYTES more memory than all took to load."""
    kinds, folder, first, count, megabytes = sys.argv[1:]
    warnings.simplefilter("ignore")
    fuzzers = [_fuzzer(kind, Path(folder, kind)) for kind in kinds.split(",")]
    before = psutil.Process().memory_info().vms
    limit = before + (int(megabytes) << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said = os.fdopen(os.dup(1), "w", buffering=1)
    said.write("ready\n")
    for number in range(int(first), int(first) + int(count)):
        said.write(f"+{number}\n")
        began = time.process_time()
        verdict = fuzzers[number % len(fuzzers)].one(number // len(fuzzers))
        said.write(f"-{number}\t{time.process_time() - began:.4f}\t{verdict}\n")
    said.write(f"done\t{peak_resident_bytes() >> 20}\n")


def _fuzzer(kind: str, folder: Path) -> Fuzzer | Rehearsal:
    if kind == "rehearsal":
        from tests.security.rehearsal import Rehearsal

        return Rehearsal()
    from tests.security.judging import Fuzzer

    fuzzer = Fuzzer(kind, folder)
    for number in range(3):  # whatever is made at first use is not an input's doing
        fuzzer.one(number)
    return fuzzer


if __name__ == "__main__":
    main()
