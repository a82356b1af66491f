"""Finished parts of an evaluation, kept as they come, so that who was stopped measures no more than what is missing.

A part is the masked LM of one model in one language, or the alignment of one system. A line of the file holds its rows
behind a digest of all that decides them, so that figures of other models, text or options are never taken for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob
from orchestrator.records import MetricRow
from orchestrator.signals.fingerprint import JSON, Fingerprint
from orchestrator.storage import append_line, read_bytes

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class _Part:
    """A line: the digest of a part, and its rows."""

    part: str
    rows: list[MetricRow]


_PART = TypeAdapter(_Part)


class Parts:
    """What is known of one job by now; for one worker at a time."""

    def __init__(self, job: EvaluationJob, *, path: Path | None = None) -> None:
        """`path`: the file; None keeps nothing."""
        self._path = path
        self._known = _read(path) if path is not None and path.exists() else {}
        self._job: dict[str, JSON] = {
            "rows": job.corpus.model_dump(mode="json", include={"max_length", "masking"}),
            "evaluation": job.evaluation.model_dump(mode="json"),
            "seed": job.seed,
            "numbers": [job.dtype, job.device],
        }

    def digest(self, name: str, models: Iterable[EvaluatedModel], *, text: str) -> str:
        """Of a part: what it is called, the models that decide it, and a hash of the text that they are measured on."""
        return Fingerprint({**self._job, "part": name, "models": [asdict(one) for one in models], "text": text}).digest

    def known(self, digest: str) -> list[MetricRow] | None:
        """The rows of a part, None where it is yet to be measured."""
        return self._known.get(digest)

    def keep(self, digest: str, rows: Iterable[MetricRow]) -> list[MetricRow]:
        """The rows of a part that was measured now; they are on disk when this returns."""
        found = list(rows)
        if self._path is not None and digest not in self._known:
            append_line(self._path, _PART.dump_json(_Part(digest, found)).decode())
        self._known[digest] = found
        return found


def _read(path: Path) -> dict[str, list[MetricRow]]:
    known = {}
    for line in read_bytes(path, max_bytes=_MAX_BYTES).splitlines():
        with suppress(ValidationError):  # a kill may have torn one
            found = _PART.validate_json(line)
            known[found.part] = found.rows
    return known
