"""What this process held at most; `ru_maxrss` would count what its parent held when it started this one."""

from __future__ import annotations

from pathlib import Path


def peak_resident_bytes() -> int:
    """The largest resident set since the process began, or since `forget_peak` (Linux, proc(5): VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


def forget_peak() -> None:
    """The largest is from now on the present one (proc(5): clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
