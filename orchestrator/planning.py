"""What a run will compute, store and take, before it runs: starts no Ray, loads no weights, writes nothing.

Times come from what this run measured of itself where there is something, else from a matrix product on this machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Literal

from orchestrator import costs
from orchestrator.config.setups import StudentSpec
from orchestrator.corpus.parallel import read_parallel
from orchestrator.corpus.sampling import language_shares
from orchestrator.corpus.store import Corpus
from orchestrator.errors import OrchError
from orchestrator.progress import last_rows
from orchestrator.records import SignalRequest
from orchestrator.run import PivotText, Run
from orchestrator.scaling.jobs import encoder_parameters, student_flops, teacher_flops
from orchestrator.scaling.times import STUDENT_EFFICIENCY, TEACHER_EFFICIENCY
from orchestrator.signals.schema import ROW_TABLES, SENTENCE_VECTORS, bytes_per_token
from orchestrator.steps.asking import WINDOW_ROWS, WINDOWS_HELD
from orchestrator.steps.exports import student_receipt
from orchestrator.steps.signals import StorePlan, known_corpus, known_stores, plan_stores, teacher_sizes
from orchestrator.storage import free_bytes

_GEMM = 1024
_GEMM_SECONDS = 0.3


@dataclass(frozen=True)
class Time:
    """How long something will still take, and whether its speed was measured in this run."""

    seconds: float
    is_measured: bool


_NO_TIME = Time(0.0, is_measured=True)


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
    bytes_per_token: dict[str, float]  # table -> bytes, of all that it says
    stored_per_token: float  # of that on disk in the end
    missing_bytes: float
    held_bytes: float  # of what it says while students train, at most at a time
    time: Time

    @property
    def num_bytes(self) -> float:
        """Bytes on disk when all is there."""
        return self.tokens * self.stored_per_token


@dataclass(frozen=True)
class SentencesPlan:
    """A teacher's vectors of parallel sentences, stored in every mode."""

    name: str
    sentences: int
    num_bytes: int


@dataclass(frozen=True)
class StudentPlan:
    """One student's training."""

    name: str
    role: str
    group: str
    encoder_parameters: int
    steps: int
    tokens: int
    time: Time


@dataclass(frozen=True)
class RunPlan:
    """Everything that `orch plan` shows."""

    setup: str
    mode: Literal["cache", "live", "hybrid"]
    root: Path
    languages: tuple[LanguagePlan, ...]
    teachers: tuple[TeacherPlan, ...]
    sentences: tuple[SentencesPlan, ...]
    students: tuple[StudentPlan, ...]
    side_by_side: int
    free_bytes: int | None  # None: an object store
    gemm_flops: float | None  # None: every time was measured

    @property
    def teacher_seconds(self) -> float:
        """Of all passes, one after another."""
        return sum(teacher.time.seconds for teacher in self.teachers)

    @property
    def training_seconds(self) -> float:
        """Of all groups, `side_by_side` of them at a time; the students of a group take turns."""
        groups: dict[str, float] = {}
        for student in self.students:
            groups[student.group] = groups.get(student.group, 0.0) + student.time.seconds
        return max(sum(groups.values()) / self.side_by_side, *groups.values())


def make_plan(run: Run) -> RunPlan:
    """Estimate a run whose corpus is read.

    Raises:
        StoreError: it is not.
    """
    corpus = known_corpus(run)
    stores = plan_stores(run, corpus)
    tokens = {name: language_tokens(run, store) for name, store in stores.items()}
    side_by_side = num_side_by_side(run)
    origins = [student for student in run.expanded.students if student.name == student.origin]  # twins read the same
    lines = tuple(line for student in origins for line in _languages(run, student, corpus, tokens))
    teachers = tuple(_teacher(run, store, tokens[name], lines) for name, store in stores.items())
    students = plan_students(run, flops=lambda: gemm_flops() * STUDENT_EFFICIENCY / side_by_side)
    times = [*(teacher.time for teacher in teachers), *(student.time for student in students)]
    return RunPlan(
        setup=run.expanded.setup,
        mode=run.config.signals.mode,
        root=run.root,
        languages=lines,
        teachers=teachers,
        sentences=tuple(map(partial(_sentences, run), run.pivots)),
        students=students,
        side_by_side=side_by_side,
        free_bytes=free_bytes(run.stores),
        gemm_flops=None if all(time.is_measured for time in times) else gemm_flops(),
    )


def num_side_by_side(run: Run) -> int:
    """How many groups of a run are trained at a time."""
    return min(len(run.expanded.groups), len(os.sched_getaffinity(0)))


def plan_students(run: Run, *, flops: Callable[[], float]) -> tuple[StudentPlan, ...]:
    """The training of each student; `flops`: FLOP/s that the steps of a group reach, asked if it logged no speed."""
    return tuple(
        _student(run, group.name, student, flops) for group in run.expanded.groups for student in group.students
    )


def _sentences(run: Run, pivot: PivotText) -> SentencesPlan:
    sizes = teacher_sizes(run, pivot.teacher)
    assert sizes is not None
    count = len(read_parallel(pivot.text))
    per_row = bytes_per_token(SignalRequest(sentence_vectors=True), "fp16", sizes, 0.0, tokens_per_row=1.0)
    return SentencesPlan(pivot.name, count, round(count * per_row[SENTENCE_VECTORS]))


def language_tokens(run: Run, store: StorePlan) -> dict[str, int]:
    """Tokens of each language of one masked copy."""
    return {language: store.tokens[language] for language in run.teacher_languages(store.teacher)}


def _languages(run: Run, student: StudentSpec, corpus: Corpus, tokens: dict[str, dict[str, int]]) -> list[LanguagePlan]:
    section, total = run.config.corpus.sampling, _student_tokens(run)
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


def _student_tokens(run: Run) -> int:
    training = run.config.training
    return training.steps * training.accumulation * training.tokens_per_batch


def _teacher(run: Run, store: StorePlan, tokens: dict[str, int], lines: Sequence[LanguagePlan]) -> TeacherPlan:
    masking = run.config.corpus.masking
    total = sum(tokens.values()) * masking.copies
    languages = run.teacher_languages(store.teacher)
    units = [unit for unit in store.units if unit.language in languages]
    live = run.config.signals.mode == "live"
    lacking = [store.lacking[unit.index] for unit in units if unit.index in store.lacking]
    passes = _passes(store.teacher, tokens, lines) if live else 1.0
    waiting = passes * total * len(lacking) / max(1, len(units))
    if live:
        waiting = 0.0 if _is_trained(run) else waiting
        lacking = [rows for tables in lacking if (rows := tuple(name for name in tables if name in ROW_TABLES))]
    per_token = bytes_per_token(store.request, run.config.signals.hidden_codec, store.sizes, masking.probability)
    measured = costs.tokens_per_second([cost for cost in costs.read(run.stores) if cost.teacher == store.teacher])
    return TeacherPlan(
        name=store.teacher,
        languages=languages,
        rows=_rows(run, store),
        tokens=total,
        shards=len(units),
        missing=len(lacking),
        bytes_per_token=per_token,
        stored_per_token=sum(size for table, size in per_token.items() if not live or table in ROW_TABLES),
        held_bytes=_held_bytes(run, store, tokens, per_token) if live else 0.0,
        missing_bytes=total / max(1, len(units)) * sum(per_token[table] for tables in lacking for table in tables),
        time=_time(waiting, measured, lambda: gemm_flops() * TEACHER_EFFICIENCY / _teacher_flops(run, store)),
    )


def _time(tokens: float, measured: float | None, estimate: Callable[[], float]) -> Time:
    """Of so many tokens, at tokens per second that were measured, or at those of an estimate."""
    if not tokens:
        return _NO_TIME
    return Time(tokens / measured, True) if measured is not None else Time(tokens / estimate(), False)


def _is_trained(run: Run) -> bool:
    return all(student_receipt(run.students_folder / s.name) is not None for s in run.expanded.students)


def _passes(teacher: str, tokens: dict[str, int], lines: Sequence[LanguagePlan]) -> float:
    """How often a teacher that answers live reads its text: as often as all its students do together."""
    own = [line for line in lines if line.teacher == teacher]
    return sum(line.epochs * line.tokens for line in own) / max(1, sum(tokens.values()))


def _held_bytes(run: Run, store: StorePlan, tokens: dict[str, int], per_token: dict[str, float]) -> float:
    """Of two windows of every language of every group that listens to this teacher."""
    said = sum(size for table, size in per_token.items() if table not in ROW_TABLES)
    copies, total = run.config.corpus.masking.copies, 0.0
    for group in run.expanded.groups:
        heard = {
            language
            for student in group.students
            for language, name in student.teachers.items()
            if name == store.teacher and run.student_request(student, name).needs_model
        }
        for language in heard:
            units = max(1, sum(unit.language == language for unit in store.units))
            rows = max(1.0, _language_rows(run, store, language, tokens[language]) * copies / units)
            total += WINDOWS_HELD * min(units, ceil(WINDOW_ROWS / rows)) * tokens[language] * copies / units * said
    return total


def _teacher_flops(run: Run, store: StorePlan) -> float:
    info, share = run.checkpoints[store.teacher], run.config.corpus.masking.probability
    return teacher_flops(info, store.request, masked_share=share)


def _rows(run: Run, store: StorePlan) -> int:
    """Rows of all masked copies: texts, or texts joined up to the maximum length."""
    tokens = language_tokens(run, store)
    rows = sum(_language_rows(run, store, language, tokens[language]) for language in tokens)
    return round(rows * run.config.corpus.masking.copies)


def _language_rows(run: Run, store: StorePlan, language: str, tokens: int) -> float:
    """Rows of one copy of one language."""
    section = run.config.corpus
    return tokens / (section.max_length - 2) if section.packing else store.corpus.info(language, "train").num_texts


def _student(run: Run, group: str, student: StudentSpec, flops: Callable[[], float]) -> StudentPlan:
    total = _student_tokens(run)
    done, measured = _speed(run, student)
    left = 0 if student_receipt(run.students_folder / student.name) is not None else max(0, total - done)
    return StudentPlan(
        name=student.name,
        role=student.role,
        group=group,
        encoder_parameters=encoder_parameters(student),
        steps=run.config.training.steps,
        tokens=total,
        time=_time(left, measured, lambda: flops() / _student_flops(run, student)),
    )


def reached_flops(run: Run) -> list[float]:
    """FLOP/s that the steps of each student reached, by the last line of its log; of those that have one."""
    logged = [(student, _logged(run, student.name)) for student in run.expanded.students]
    return [found[1] * _student_flops(run, student) for student, found in logged if found is not None]


def _student_flops(run: Run, student: StudentSpec) -> float:
    """Of one token, forward and backward."""
    share = run.config.corpus.masking.probability
    return student_flops(student, _vocabulary_size(run, student), masked_share=share)


def _speed(run: Run, student: StudentSpec) -> tuple[int, float | None]:
    """Tokens that this student has read, and tokens per second of its own or of the other students of the setup."""
    own = _logged(run, student.name)
    if own is not None:
        return own
    others = [found[1] for other in run.expanded.students if (found := _logged(run, other.name)) is not None]
    return 0, fmean(others) if others else None


def _logged(run: Run, student: str) -> tuple[int, float] | None:
    """Tokens that a student has read, and tokens per second, as it logged them last; None where it did not."""
    match last_rows(run.students_folder / student / "metrics.jsonl"):
        case [*_, {"tokens": int(tokens), "tokens_per_second": float(speed)}] if speed > 0:
            return tokens, speed
    return None


def _vocabulary_size(run: Run, student: StudentSpec) -> int:
    """Of the vocabulary that is built, else at most."""
    from orchestrator.steps.vocabularies import vocabulary_size

    try:
        built = vocabulary_size(run, student, known_stores(run))
    except OrchError:
        built = None
    infos = [run.checkpoints[name] for name in set(student.teachers.values())]
    return built if built is not None else sum(info.vocab_size for info in infos if info is not None)


@cache
def gemm_flops() -> float:
    """FLOP/s of a matrix product on this machine in the number format that `auto` chooses."""
    import torch

    from orchestrator.models.devices import pick_device, pick_dtype, torch_dtype

    device = pick_device("auto")
    a = torch.ones(_GEMM, _GEMM, dtype=torch_dtype(pick_dtype("auto", device=device)), device=device)
    for _ in range(3):  # the first ones wake threads and fill caches
        (a @ a)[0, 0].item()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < _GEMM_SECONDS:
        (a @ a)[0, 0].item()
        rounds += 1
    return rounds * 2.0 * _GEMM**3 / (time.perf_counter() - started)
