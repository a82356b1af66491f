"""`auto` finds what the machine computes in; what it cannot is refused."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.models.devices import pick_device, pick_dtype, torch_dtype

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("able", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_machine_has_it(able: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert pick_dtype("auto", device="cpu") == expected
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert pick_dtype("auto", device="cuda") == expected


def test_old_releases_of_torch_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert pick_dtype("auto") == "float32"


def test_what_is_named_is_taken() -> None:
    assert pick_dtype("bfloat16") == "bfloat16"
    assert pick_dtype("float16", device="cuda") == "float16"
    assert pick_device("cpu") == "cpu"
    assert [torch_dtype(name) for name in ("float32", "bfloat16", "float16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]


def test_without_torch_the_answers_are_the_same() -> None:
    code = (
        "import sys\nfrom orchestrator.models.devices import pick_device, pick_dtype\n"
        "device = pick_device('auto')\nprint(device, pick_dtype('auto', device=device), 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    device, dtype, is_imported = ended.stdout.split()
    assert (device, dtype) == (pick_device("auto"), pick_dtype("auto", device=pick_device("auto")))
    if torch.version.cuda is None and torch.version.hip is None and Path("/proc/cpuinfo").is_file():
        assert is_imported == "False"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="memory is kept where there is glibc")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    code = """
import resource
from pathlib import Path
from orchestrator.models.devices import memory_kept
import torch

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
outside, empty = faults(), resident()
with memory_kept():
    faults()
    inside, held = min(faults() for _ in range(5)), resident()  # on a busy machine the heap grows for up to three
print(outside, inside, held - empty, resident() - empty)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    outside, inside, held, left = map(int, ended.stdout.split())
    assert outside > 10 * inside
    assert held > 60 << 20
    assert left < 10 << 20


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="a CPU cannot compute in 'float16'"):
        pick_dtype("float16", device="cpu")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="'cuda' is asked for, but this machine has no usable GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == "cuda"
