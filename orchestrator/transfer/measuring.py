"""Fine-tune and test: each fine-tuning is done once, and every cell that it serves is measured then.

Shape legend: U units with a label, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from orchestrator.config.transfer import TransferSection
from orchestrator.models.devices import Device, pick_device, torch_threads
from orchestrator.models.encoder import Encoder
from orchestrator.models.loading import load_encoder
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.records import Int64, TransferRow
from orchestrator.transfer.job import Cell, Student, Training
from orchestrator.transfer.moving import add_difference, move_parts
from orchestrator.transfer.parts import Parts, prepare
from orchestrator.transfer.scoring import score
from orchestrator.transfer.state import TransferState
from orchestrator.transfer.tagger import Tagger, make_head
from orchestrator.transfer.tasks import Examples, Task
from orchestrator.transfer.tokens import EncodedExamples, encode
from orchestrator.transfer.tuning import logits_of, tune


def plan_trainings(cells: Mapping[str, Cell]) -> dict[Training, dict[str, Cell]]:
    """Each fine-tuning with the cells (by digest) that it serves; those of teachers first: others wait for them."""
    teachers = (cell.training.teacher_training for cell in cells.values())
    plan: dict[Training, dict[str, Cell]] = {training: {} for training in teachers if training is not None}
    for digest, cell in cells.items():
        plan.setdefault(cell.training, {})[digest] = cell
    return plan


def measure(
    cells: Mapping[str, Cell],
    task: Task,
    options: TransferSection,
    *,
    state: TransferState,
    write: Callable[[TransferRow], None],
) -> None:
    """Measure the cells (by digest) of one task; each row is given to `write` as soon as it is known.

    Raises:
        DataError: a model or tokenizer cannot be loaded, or two students do not fit together.
    """
    plan = plan_trainings(cells)
    with torch_threads(options.threads):
        bench = _Bench(task, options, pick_device(options.device), state)
        asked = {training.teacher_training for training in plan}
        for training, served in plan.items():
            trained = bench.train(training)
            if training in asked:
                bench.keep_logits(trained)
            for digest, cell in served.items():
                state.doing = f"{task.name} {cell.mode.name}, {cell.source} to {cell.target}: testing"
                for metric, value in bench.test(trained, cell).items():
                    write(_row(cell, task, metric, value, digest))
                state.cells_done += 1


def _row(cell: Cell, task: Task, metric: str, value: float, digest: str) -> TransferRow:
    return TransferRow(
        model=cell.model.name,
        role=cell.model.role,
        language=cell.target,
        metric=metric,
        value=value,
        n=len(task.test[cell.target].label),
        seed=cell.training.seed,
        split="test",
        other_language=cell.source,
        task=task.name,
        mode=cell.mode.name,
        cell=digest,
    )


@dataclass
class _Trained:
    """The outcome of one fine-tuning, in memory."""

    training: Training
    taggers: list[Tagger]
    parts: Parts
    figures: dict[tuple[Student, str, str], dict[str, float]] = field(default_factory=dict)


class _Bench:
    """One task on one device: loads, trains, moves, tests; each text is tokenised once per tokenizer."""

    def __init__(self, task: Task, options: TransferSection, device: Device, state: TransferState) -> None:
        self._task, self._options, self._device, self._state = task, options, device, state
        self._encoded: dict[tuple[str, int, str], EncodedExamples] = {}
        self._teacher_logits: dict[Training, Tensor] = {}

    def train(self, training: Training) -> _Trained:
        """Fine-tune on the source's sentences."""
        task, options = self._task, self._options
        self._state.doing = f"{task.name}: {training.what} in {' and '.join(one.folder for one in training.students)}"
        encoders = [self._load(student) for student in training.students]
        head = make_head(encoders[0].width, task.num_classes, seed=training.seed).to(self._device)
        taggers = [Tagger(encoder, head) for encoder in encoders]
        parts = prepare(encoders, training, adapter_width=options.adapter_width)
        head.requires_grad_(True)
        encoded = [
            self._encode(task.train, student, task.source, min(options.max_length, encoder.max_positions))
            for student, encoder in zip(training.students, encoders, strict=True)
        ]
        answer = training.teacher_training
        begun = time.monotonic()

        def on_step(tokens: int) -> None:
            self._state.step(tokens, begun)

        tune(
            taggers,
            encoded,
            parts,
            examples=task.train,
            options=options,
            seed=training.seed,
            teacher_logits=None if answer is None else self._teacher_logits[answer],
            on_step=on_step,
        )
        return _Trained(training, taggers, parts)

    def keep_logits(self, trained: _Trained) -> None:
        """What a tuned teacher says of the training sentences, for the students that are held to it."""
        student, tagger, examples = trained.training.students[0], trained.taggers[0], self._task.train
        most = min(self._options.max_length, tagger.encoder.max_positions)
        encoded = self._encode(examples, student, self._task.source, most)
        self._teacher_logits[trained.training] = logits_of(tagger, encoded, num_units=len(examples.label))

    def test(self, trained: _Trained, cell: Cell) -> dict[str, float]:
        """Figures of a cell that this fine-tuning serves."""
        key = (cell.tested, cell.target, cell.mode.what if cell.is_moved else "")
        if key not in trained.figures:
            tagger = self._moved(trained, cell) if cell.is_moved else self._own(trained, cell)
            examples = self._task.test[cell.target]
            encoded = self._encode(examples, cell.tested, cell.target, tagger.encoder.max_positions)
            logits = logits_of(tagger, encoded, num_units=len(examples.label))
            head = sum(parameter.numel() for parameter in tagger.head.parameters())
            trained.figures[key] = {
                **score(_choices(logits), examples, self._task.labels, kind=self._task.kind),
                "trained_parameters": float(trained.parts.num_parameters + head),
            }
        return trained.figures[key]

    def _own(self, trained: _Trained, cell: Cell) -> Tagger:
        return trained.taggers[trained.training.students.index(cell.tested)]

    def _moved(self, trained: _Trained, cell: Cell) -> Tagger:
        """The target's student with what was trained in the source's."""
        giver, tuned = trained.training.students[0], trained.taggers[0]
        target = self._load(cell.tested)
        if trained.training.what == "full":
            add_difference(
                tuned=tuned.encoder,
                base=self._load(giver),
                target=target,
                source_tokens=load_tokenizer(giver.tokenizer_for(cell.source), revision=giver.revision).get_vocab(),
                target_tokens=load_tokenizer(
                    cell.tested.tokenizer_for(cell.target), revision=cell.tested.revision
                ).get_vocab(),
            )
        else:
            move_parts(trained.parts, tuned.encoder, target, top=trained.training.top)
        return Tagger(target, tuned.head)

    def _load(self, student: Student) -> Encoder:
        return load_encoder(student.folder, revision=student.revision, device=self._device, need_head=False)

    def _encode(self, examples: Examples, student: Student, language: str, max_length: int) -> EncodedExamples:
        path = student.tokenizer_for(language)
        key = (path, max_length, examples.content_hash)
        if key not in self._encoded:
            tokenizer = load_tokenizer(path, revision=student.revision)
            self._encoded[key] = encode(examples, tokenizer, kind=self._task.kind, max_length=max_length)
        return self._encoded[key]


def _choices(logits: Tensor) -> Int64:
    """The best class of each unit [U], -1 where nothing was said; logits [U, C]."""
    best: Int64 = logits.argmax(dim=1).numpy()
    return np.where(logits[:, 0].isnan().numpy(), -1, best)
