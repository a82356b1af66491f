"""Which device, which number format and how many threads to compute with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch

from orchestrator.errors import ConfigError

Device: TypeAlias = Literal["cpu", "cuda"]
DtypeName: TypeAlias = Literal["float32", "bfloat16", "float16"]

TORCH_DTYPES: dict[DtypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def pick_device(value: Literal["auto", "cpu", "cuda"]) -> Device:
    """`auto`: the GPU when there is one. ConfigError when a GPU is asked for and there is none."""
    if value == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if value == "cuda" and not torch.cuda.is_available():
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
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _computes_bfloat16(device: Device) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch names no public query for this before 2.12; older releases lack the private ones too.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(bool(probe()) for probe in probes if probe is not None)
