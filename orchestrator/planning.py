"""What a run will compute and store, before anything runs: for `orch plan`. Starts no Ray and loads no weights."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from orchestrator.config.setups import StudentSpec
from orchestrator.corpus.sampling import language_shares
from orchestrator.corpus.store import Corpus
from orchestrator.run import Run
from orchestrator.signals.schema import bytes_per_token
from orchestrator.steps.signals import StorePlan, plan_stores, prepare_corpus
from orchestrator.storage import free_bytes

#: Shares of the measured GEMM rate that a teacher's forward pass and a student's step reach on the whole.
_TEACHER_EFFICIENCY, _STUDENT_EFFICIENCY = 0.5, 0.25
_GEMM = 1024


@dataclass(frozen=True)
class LanguagePlan:
    """One language of one student: how much there is, and how often it will be read."""

    student: str
    language: str
    teacher: str
    texts: int
    tokens: int
    share: float
    epochs: float


@dataclass(frozen=True)
class TeacherPlan:
    """One teacher's pass."""

    name: str
    languages: tuple[str, ...]
    rows: int
    tokens: int
    shards: int
    missing: int
    bytes_per_token: dict[str, float]
    seconds: float

    @property
    def num_bytes(self) -> float:
        """Bytes on disk when all is there."""
        return self.tokens * sum(self.bytes_per_token.values())


@dataclass(frozen=True)
class StudentPlan:
    """One student's training."""

    name: str
    role: str
    encoder_parameters: int
    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class RunPlan:
    """Everything that `orch plan` shows."""

    setup: str
    languages: tuple[LanguagePlan, ...]
    teachers: tuple[TeacherPlan, ...]
    students: tuple[StudentPlan, ...]
    free_bytes: int
    gemm_flops: float


def make_plan(run: Run) -> RunPlan:
    """Read the corpus if it was not read before, and estimate the rest from a sample of it and a short GEMM."""
    corpus = prepare_corpus(run)
    stores = plan_stores(run, corpus)
    flops = _gemm_flops()
    tokens = {name: _language_tokens(run, store) for name, store in stores.items()}
    side_by_side = min(len(run.expanded.groups), len(os.sched_getaffinity(0)))
    return RunPlan(
        setup=run.expanded.setup,
        languages=tuple(line for student in run.expanded.students for line in _languages(run, student, corpus, tokens)),
        teachers=tuple(_teacher(run, store, tokens[name], flops) for name, store in stores.items()),
        students=tuple(_student(run, student, flops / side_by_side) for student in run.expanded.students),
        free_bytes=free_bytes(run.root),
        gemm_flops=flops,
    )


def _language_tokens(run: Run, store: StorePlan) -> dict[str, int]:
    """Tokens of each language of one masked copy, special tokens included."""
    return {
        language: round(store.corpus.info(language, "train").num_characters * store.tokens_per_character[language])
        for language in run.teacher_languages(store.teacher)
    }


def _languages(run: Run, student: StudentSpec, corpus: Corpus, tokens: dict[str, dict[str, int]]) -> list[LanguagePlan]:
    section, training = run.config.corpus.sampling, run.config.training
    total = training.steps * training.accumulation * training.tokens_per_batch
    own = {language: tokens[teacher][language] for language, teacher in student.teachers.items()}
    shares = language_shares(own, alpha=section.alpha, max_epochs=section.max_epochs, total_tokens=total)
    return [
        LanguagePlan(
            student=student.name,
            language=language,
            teacher=student.teachers[language],
            texts=corpus.info(language, "train").num_texts,
            tokens=own[language],
            share=shares[language],
            epochs=shares[language] * total / max(1, own[language]),
        )
        for language in student.languages
    ]


def _teacher(run: Run, store: StorePlan, tokens: dict[str, int], flops: float) -> TeacherPlan:
    masking = run.config.corpus.masking
    info = run.checkpoints[store.teacher]
    total = sum(tokens.values()) * masking.copies
    languages = run.teacher_languages(store.teacher)
    units = [unit for unit in store.units if unit.language in languages]
    missing = [unit for unit in store.missing if unit.language in languages]
    per_token = 0.0
    if info is not None and store.request.needs_model:
        encoder = info.num_parameters - info.vocab_size * info.width
        per_token = 2.0 * encoder + 2.0 * masking.probability * info.vocab_size * info.width * store.request.needs_head
    return TeacherPlan(
        name=store.teacher,
        languages=languages,
        rows=_rows(run, store),
        tokens=total,
        shards=len(units),
        missing=len(missing),
        bytes_per_token=bytes_per_token(
            store.request, run.config.signals.hidden_codec, info.width if info else None, masking.probability
        ),
        seconds=total * per_token / (flops * _TEACHER_EFFICIENCY) * len(missing) / max(1, len(units)),
    )


def _rows(run: Run, store: StorePlan) -> int:
    """Rows of all masked copies: texts, or texts joined up to the maximum length."""
    section = run.config.corpus
    rows = 0.0
    for language, tokens in _language_tokens(run, store).items():
        rows += tokens / (section.max_length - 2) if section.packing else store.corpus.info(language, "train").num_texts
    return round(rows * section.masking.copies)


def _student(run: Run, student: StudentSpec, flops: float) -> StudentPlan:
    training, template = run.config.training, student.template
    intermediate = template.intermediate_size or 4 * template.hidden_size
    encoder = template.layers * (4 * template.hidden_size**2 + 2 * template.hidden_size * intermediate)
    tokens = training.steps * training.accumulation * training.tokens_per_batch
    return StudentPlan(
        name=student.name,
        role=student.role,
        encoder_parameters=encoder,
        steps=training.steps,
        tokens=tokens,
        seconds=tokens * 6.0 * encoder / (flops * _STUDENT_EFFICIENCY),
    )


def _gemm_flops() -> float:
    """FLOP/s of a matrix product on this machine in the number format that `auto` chooses; a tenth of a second."""
    import torch

    from orchestrator.models.devices import TORCH_DTYPES, pick_device, pick_dtype

    device = pick_device("auto")
    a = torch.ones(_GEMM, _GEMM, dtype=TORCH_DTYPES[pick_dtype("auto", device=device)], device=device)
    (a @ a).sum().item()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        (a @ a)[0, 0].item()
        rounds += 1
    return rounds * 2.0 * _GEMM**3 / (time.perf_counter() - started)
