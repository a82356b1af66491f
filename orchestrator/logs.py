"""The log of a run: what its driver did, when, and why it ended, in logs/orch.log; never a credential."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.credentials import without_credentials
from orchestrator.storage import make_folder

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class DiscreetFormatter(logging.Formatter):
    """Records as lines, tracebacks included, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return without_credentials(super().format(record))


class _LogFile(logging.FileHandler):
    """A file of records. A disk that refuses them stops nobody: what matters is written elsewhere, and checked."""

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 - the name is the library's
        """Say nothing."""


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Add everything that orch logs during the block to `path`, and the traceback of what ends it."""
    make_folder(path.parent)
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(DiscreetFormatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    logger = logging.getLogger("orchestrator")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:  # for the file alone: the terminal has its own way to say it
        handler.handle(_record(logging.ERROR, f"failed: {error}", error))
        raise
    except BaseException as error:
        handler.handle(_record(logging.WARNING, f"stopped by {type(error).__name__}", None))
        raise
    finally:
        logger.setLevel(before)
        root.removeHandler(handler)
        handler.close()


def _record(level: int, text: str, error: Exception | None) -> logging.LogRecord:
    raised = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord(__name__, level, __file__, 0, text, None, raised)
