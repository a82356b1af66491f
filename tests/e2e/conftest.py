"""One project, made once; every test that changes something works on a copy.

All of it lies in memory where the system has a file system there: a run syncs hundreds of files, and disks are slow.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.project import make_project


@pytest.fixture(scope="session")
def shelf() -> Iterator[Path]:
    """A folder for everything that these tests write."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="orch-test-", dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def made_project(shelf: Path) -> Path:
    """A project that nobody may change."""
    make_project(shelf / "made")
    return shelf / "made"


@pytest.fixture
def project(made_project: Path, shelf: Path) -> Path:
    """A project of one's own."""
    return copy_of(made_project, shelf)


def copy_of(project: Path, shelf: Path) -> Path:
    """A copy with the times of its files, as a new folder on the shelf."""
    folder = Path(tempfile.mkdtemp(dir=shelf)) / "project"
    shutil.copytree(project, folder)
    return folder
