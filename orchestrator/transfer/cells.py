"""The cells of a table of transfer: what is measured already, by the fingerprint of all that decides it; and checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.transfer import TransferSection
from orchestrator.errors import DataError, StoreError
from orchestrator.models.checkpoints import describe_checkpoint, tokenizer_hash, weights_hash
from orchestrator.records import TransferRow
from orchestrator.signals.fingerprint import JSON, Fingerprint
from orchestrator.storage import parse_json, read_bytes
from orchestrator.transfer.job import Cell, Student
from orchestrator.transfer.scoring import METRICS
from orchestrator.transfer.tasks import Task

_FORMAT = 1
_MAX_BYTES = 1 << 28
_ROW = TypeAdapter(TransferRow)


def cell_digest(cell: Cell, task: Task, options: TransferSection) -> str:
    """A short hash of the models' weights and tokenizers, the sentences, the mode, the options and the seed."""
    unused = {"tasks", "device", "threads"}
    unused |= {"adapter_width"} if cell.training.what != "adapter" else set()
    unused |= {"distil_weight"} if cell.training.teacher is None else set()
    training = cell.training
    return Fingerprint(
        {
            "format": _FORMAT,
            "model": cell.model.name,
            "mode": cell.mode.name,
            "trained": [_parts(student, cell.source) for student in training.students],
            "teacher": None if training.teacher is None else _parts(training.teacher, cell.source),
            "tested": _parts(cell.tested, cell.target),
            "task": [task.kind, list(task.labels), task.num_classes],
            "train": task.train.content_hash,
            "test": task.test[cell.target].content_hash,
            "options": options.model_dump(mode="json", exclude=unused),
            "seed": training.seed,
        }
    ).digest


def _parts(student: Student, language: str) -> JSON:
    return _hashes(student.folder, student.tokenizer_for(language), student.revision)


@lru_cache(maxsize=256)
def _hashes(folder: str, tokenizer: str, revision: str | None) -> tuple[str, str]:
    return weights_hash(folder, revision=revision), tokenizer_hash(tokenizer, revision=revision)


def check_cell(cell: Cell) -> None:
    """Refuse, before anything is trained, what these students cannot do.

    Raises:
        DataError: weights are to go between students of different shapes, or more layers are asked for than there are.
    """
    shapes = {student: _shape(student) for student in {*cell.training.students, cell.tested}}
    if len(set(shapes.values())) > 1:
        (first, ours), (second, theirs) = list(shapes.items())[:2]
        raise DataError(
            f"Mode {cell.mode.name} of '{cell.model.name}': {first.folder} and {second.folder} differ in architecture, "
            f"depth, width or heads ({ours} and {theirs}), but share or move weights; use a mode that ends in -trg."
        )
    depth = next(iter(shapes.values()))[1]
    if cell.training.top > depth:
        raise DataError(
            f"Mode {cell.mode.name} of '{cell.model.name}': the student has {depth} layers; name as many at most."
        )


@lru_cache(maxsize=256)
def _shape(student: Student) -> tuple[str, int, int, int]:
    info = describe_checkpoint(student.folder, revision=student.revision)
    return info.architecture, info.depth, info.width, info.heads


def read_rows(path: Path) -> list[TransferRow]:
    """The rows of transfer/metrics.jsonl, the later of two of the same figure; a line that a kill tore is left out.

    Raises:
        StoreError: a line is no such row; the text names it.
    """
    if not path.exists():
        return []
    found: dict[tuple[str, str], TransferRow] = {}
    for number, line in enumerate(read_bytes(path, max_bytes=_MAX_BYTES).split(b"\n"), start=1):
        try:
            tree = parse_json(line)
        except ValueError:
            continue
        try:
            row = _ROW.validate_python(tree)
        except ValidationError:
            raise StoreError(
                f"{path}, line {number} is no row of transfer; remove the line, or the file to measure all again."
            ) from None
        found[row.cell, row.metric] = row
    return list(found.values())


def done_cells(rows: Sequence[TransferRow], task: Task) -> set[str]:
    """Digests of the cells of which every figure is there."""
    metrics: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        metrics[row.cell].add(row.metric)
    return {digest for digest, there in metrics.items() if there.issuperset(METRICS[task.kind])}
