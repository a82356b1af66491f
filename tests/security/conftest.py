"""What tests of security share: a project, and a table of figures that the long form prints and keeps."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import made_project, project, shelf
from tests.security.figures import IS_LONG, measured, write

__all__ = ["made_project", "project", "shelf"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The long form's table, on the terminal and on disk."""
    if IS_LONG and measured:
        terminalreporter.section("security")
        for name, figures in measured.items():
            terminalreporter.write_line(f"{name}: {figures}")
        terminalreporter.write_line(f"written to {write()}")
