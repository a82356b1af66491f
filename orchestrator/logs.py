"""The logs of a run: the driver's in logs/orch.log, and as JSON lines every process' own in logs/actors.

Whoever works on a run sees its folder, since students write their checkpoints there: so each process writes its lines
itself, as they come, and those of one that is killed are there too. A line says time, level, worker, node, pid, unit
(what the worker does), logger, message, and the traceback where there is one. None ever says a credential.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path

from orchestrator.credentials import without_credentials
from orchestrator.storage import make_folder

ACTORS = "actors"

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
#: A process keeps its last lines, one or two files of so many bytes.
_MOST_BYTES = 8 << 20

_unit: ContextVar[str] = ContextVar("unit", default="")


class DiscreetFormatter(logging.Formatter):
    """Records as lines, tracebacks included, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return without_credentials(super().format(record))


class _LogFile(logging.FileHandler):
    """A file of records. A disk that refuses them stops nobody: what matters is written elsewhere, and checked."""

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 - the name is the library's
        """Say nothing."""


class _LinesFile(RotatingFileHandler):
    """The same, of JSON lines and limited in size."""

    def __init__(self, path: Path, *, worker: str) -> None:
        super().__init__(path, maxBytes=_MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)
        self.setFormatter(_JsonLine(worker))

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""


class _JsonLine(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._who = {"worker": worker, "node": socket.gethostname(), "pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname, **self._who}
        line |= {"unit": _unit.get(), "logger": record.name, "message": without_credentials(record.getMessage())}
        if record.exc_info and record.exc_info[0] is not None:
            line["trace"] = without_credentials(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


@contextmanager
def working_on(unit: str) -> Iterator[None]:
    """Name in every line of the block what is being done."""
    token = _unit.set(unit)
    try:
        yield
    finally:
        _unit.reset(token)


def log_worker(folder: Path, *, worker: str) -> None:
    """From now on, write what this process logs to a file of its own in `folder`.

    On a machine that does not see the folder of the run they go to standard error, which Ray keeps for each worker.
    """
    own = f"{socket.gethostname()}-{os.getpid()}-{worker[:8]}.jsonl"
    handler: logging.Handler = _LinesFile(folder / own, worker=worker) if folder.is_dir() else logging.StreamHandler()
    handler.setFormatter(_JsonLine(worker))
    logging.getLogger().addHandler(handler)
    logging.getLogger("orchestrator").setLevel(logging.DEBUG)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Add everything that orch logs during the block to `path`, and the traceback of what ends it.

    The same goes as JSON lines to actors/driver.jsonl beside it.
    """
    actors = path.parent / ACTORS
    make_folder(actors)
    text = _LogFile(path, encoding="utf-8", delay=True)
    text.setFormatter(DiscreetFormatter(_FORMAT))
    text.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [text, _LinesFile(actors / "driver.jsonl", worker="driver")]
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    logger = logging.getLogger("orchestrator")
    before = logger.level
    logger.setLevel(logging.DEBUG)  # for the lines; the text and the terminal show less
    try:
        yield
    except Exception as error:  # for the files alone: the terminal has its own way to say it
        _last(handlers, _record(logging.ERROR, f"failed: {error}", error))
        raise
    except BaseException as error:
        _last(handlers, _record(logging.WARNING, f"stopped by {type(error).__name__}", None))
        raise
    finally:
        logger.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            with suppress(OSError):  # a full disk refuses the last lines
                handler.close()


def _last(handlers: list[logging.Handler], record: logging.LogRecord) -> None:
    for handler in handlers:
        handler.handle(record)


def _record(level: int, text: str, error: Exception | None) -> logging.LogRecord:
    raised = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord(__name__, level, __file__, 0, text, None, raised)
