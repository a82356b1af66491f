"""The tests of this room write hundreds of small stores: without waiting for the disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.storage import local as storage
from tests.faults.disks import FaultyDisk


@pytest.fixture(autouse=True, scope="module")
def _no_fsync() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "disk", FaultyDisk())
        yield
