"""What fault tests share: one Ray, and a list of figures that the long form prints and keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from orchestrator.cluster import Cluster, open_cluster
from tests.e2e.conftest import made_project, shelf
from tests.faults.figures import IS_LONG, Figure, write

__all__ = ["made_project", "shelf"]

_measured: list[Figure] = []

#: (promise, what was measured)
Note: TypeAlias = Callable[[str, str], None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Call it at the end of a test, with the promise and the figure."""
    began = time.monotonic()

    def keep(promise: str, figure: str) -> None:
        _measured.append(Figure(request.node.nodeid, promise, figure, round(time.monotonic() - began, 1)))

    return keep


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray on this machine for the tests of a file; a process can have but one, and other files open their own."""
    with open_cluster(
        None, object_store_bytes=80 << 20, log_folder=tmp_path_factory.mktemp("logs"), num_cpus=8
    ) as started:
        yield started


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The long form's table, on the terminal and on disk."""
    if IS_LONG and _measured:
        terminalreporter.section("faults")
        for figure in _measured:
            terminalreporter.write_line(f"{figure.promise}: {figure.figure} ({figure.seconds:.0f} s, {figure.test})")
        terminalreporter.write_line(f"written to {write(_measured)}")
