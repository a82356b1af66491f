"""One small world for all tests of this room, on one thread and without waiting for the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from orchestrator.storage import local as storage
from tests.faults.disks import FaultyDisk
from tests.students.tiny import World, make_world


@contextmanager
def _quick() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "disk", FaultyDisk())
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _quick_module() -> Iterator[None]:
    with _quick():
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    with _quick():
        return make_world(tmp_path_factory.mktemp("world"))
