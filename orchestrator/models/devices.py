"""Which device, which number format and how many threads to compute with.

torch takes seconds to import, so a build of it without GPUs is not asked for what Linux knows too.
"""

from __future__ import annotations

import ctypes
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device: TypeAlias = Literal["cpu", "cuda"]
DtypeName: TypeAlias = Literal["float32", "bfloat16", "float16"]

_CPU_FLAGS = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_tile"}

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2_000_000_000, _TOP_PAD: 256 << 20}
_GIVE_BACK = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10}


def torch_dtype(name: DtypeName) -> torch.dtype:
    """torch's own."""
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def pick_device(value: Literal["auto", "cpu", "cuda"]) -> Device:
    """`auto`: the GPU when there is one. ConfigError when a GPU is asked for and there is none."""
    if value == "auto":
        return "cuda" if _has_gpu() else "cpu"
    if value == "cuda" and not _has_gpu():
        raise ConfigError("device: 'cuda' is asked for, but this machine has no usable GPU; use 'auto' or 'cpu'")
    return value


def pick_dtype(value: Literal["auto", "float32", "bfloat16", "float16"], *, device: Device = "cpu") -> DtypeName:
    """`auto`: bfloat16 where the device computes in it, else float32.

    Raises:
        ConfigError: float16 on a CPU, which is hundreds of times slower there than float32.
    """
    if value == "float16" and device == "cpu":
        raise ConfigError(
            "dtype: a CPU cannot compute in 'float16' at a useful speed; use 'auto', 'bfloat16' or 'float32'"
        )
    if value != "auto":
        return value
    return "bfloat16" if _computes_bfloat16(device) else "float32"


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """In the block, torch computes with so many threads; None leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def memory_kept() -> Iterator[None]:
    """In the block, memory that is freed stays with this process; afterwards what is free goes back to the system.

    glibc returns pieces above 32 MB at once, such as the gradient of an embedding matrix, and Linux then clears every
    page of the next one: a tenth of a student's step. Where there is no glibc nothing is changed.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    for parameter, value in _KEEP.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _GIVE_BACK.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _has_gpu() -> bool:
    if "torch" not in sys.modules and not _is_built_for_gpus():
        return False
    import torch

    return torch.cuda.is_available()


@cache
def _is_built_for_gpus() -> bool:
    """What torch's own version.py says; True when it does not say it."""
    spec = find_spec("torch")
    path = Path((spec and spec.origin) or "").with_name("version.py")
    said = runpy.run_path(str(path)) if path.is_file() else {}
    return any(said.get(name, "unknown") is not None for name in ("cuda", "hip"))


def _computes_bfloat16(device: Device) -> bool:
    if device == "cpu" and "torch" not in sys.modules and _CPU_FLAGS.is_file():
        lines = (line for line in _CPU_FLAGS.read_text().splitlines() if line.startswith("flags"))
        if flags := next(lines, ""):
            return not _BFLOAT16_FLAGS.isdisjoint(flags.split())
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch names no public query for this before 2.12; older releases lack the private ones too.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(probe()) for probe in probes if probe is not None)
