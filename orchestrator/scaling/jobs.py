"""What there is to do of a configuration, in tokens, FLOP and bytes: from sizes alone, nothing else is read.

Shape legend: V vocabulary, D width. The formulas stand in docs/scaling.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

from orchestrator.config.plan import PlannedTeacher
from orchestrator.config.run import RunConfig
from orchestrator.config.setups import ExpandedRun, GroupSpec, StudentSpec
from orchestrator.errors import ConfigError
from orchestrator.models.checkpoints import CheckpointInfo, describe_checkpoint
from orchestrator.records import SignalRequest
from orchestrator.signals.schema import ROW_TABLES, TeacherSizes, bytes_per_token
from orchestrator.students.requests import requested_signals


@dataclass(frozen=True)
class TeacherJob:
    """`tokens` are of all masked copies; `tables`: bytes per token of each table."""

    name: str
    tokens: float
    flops_per_token: float
    tables: Mapping[str, float]
    stored_per_token: float

    @property
    def num_bytes(self) -> float:
        """On disk in the end."""
        return self.tokens * self.stored_per_token


@dataclass(frozen=True)
class StudentJob:
    """`tokens` that it reads in its training, of `read_per_token` bytes, so many of them from the store."""

    name: str
    tokens: float
    flops_per_token: float
    read_per_token: float
    stored_per_token: float
    parameters: int


@dataclass(frozen=True)
class GroupJob:
    """Students that are stepped together, `micro_batches` in a step, on so many devices at most."""

    name: str
    students: tuple[StudentJob, ...]
    steps: float
    micro_batches: int

    @property
    def parameters(self) -> int:
        """Of all; what is shared is counted as often as it is used."""
        return sum(student.parameters for student in self.students)


@dataclass(frozen=True)
class Job:
    """Everything that is to be done; `teachers_per_gpu` actors share one."""

    mode: str
    teachers_per_gpu: int
    text_bytes: float
    teachers: tuple[TeacherJob, ...]
    groups: tuple[GroupJob, ...]
    shard_bytes: int


def describe_job(expanded: ExpandedRun, *, tokens: Mapping[str, float], text_bytes: float, epochs: float | None) -> Job:
    """The job of a configuration, from `tokens` of each language in one copy.

    With `epochs` every student reads its text so often; else for as many steps as the configuration says.

    Raises:
        ConfigError: nothing is known of a teacher; the text says what to write.
    """
    config = expanded.config
    infos = {name: _info(config, name) for name in _heard(expanded)}
    return Job(
        mode=config.signals.mode,
        teachers_per_gpu=floor(1 / (config.cluster.gpus_per_teacher or 1.0)) or 1,
        text_bytes=text_bytes,
        teachers=tuple(_teacher(expanded, name, info, tokens, epochs) for name, info in infos.items()),
        groups=tuple(_group(expanded, group, infos, tokens, epochs) for group in expanded.groups),
        shard_bytes=config.signals.shard_megabytes << 20,
    )


def given_tokens(config: RunConfig, *, total: float | None) -> dict[str, float]:
    """Tokens of each language as `plan.text_gigabytes` says, brought to `total` where that is given.

    Raises:
        ConfigError: it says nothing of a language, and there is no total either.
    """
    languages, sizes = config.corpus.languages, config.plan.text_gigabytes
    missing = [language for language in languages if language not in sizes]
    if missing and (sizes or total is None):
        raise ConfigError(
            f"plan.text_gigabytes says nothing of {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}; add "
            "that, or give --tokens and leave the section out, for as much text of each language."
        )
    shares = {language: sizes.get(language, 1.0) for language in languages}
    if total is None:
        return {language: size * 1e9 / config.plan.bytes_per_token for language, size in shares.items()}
    return {language: total * size / sum(shares.values()) for language, size in shares.items()}


def _heard(expanded: ExpandedRun) -> list[str]:
    used = {name for student in expanded.students for name in student.teachers.values()}
    return [name for name in expanded.config.teachers if name in used]


def _info(config: RunConfig, name: str) -> CheckpointInfo | None:
    """What a teacher is, as the configuration says, else as its files do; None for a tokenizer alone."""
    section = config.teachers[name]
    if name in config.plan.teachers:
        return _planned(config.plan.teachers[name])
    return describe_checkpoint(section.model, revision=section.revision) if section.model is not None else None


def _planned(sizes: PlannedTeacher) -> CheckpointInfo:
    width, vocabulary = sizes.hidden_size, sizes.vocab_size
    layer = 4 * width * width + 2 * width * sizes.feed_forward_size
    return CheckpointInfo(
        architecture="planned",
        depth=sizes.layers,
        width=width,
        heads=sizes.heads,
        vocab_size=vocabulary,
        has_head=True,
        num_parameters=sizes.layers * layer + width * width + vocabulary * width,
        embedding_width=width,
        windows=(None,) * sizes.layers,
    )


def _request(expanded: ExpandedRun, name: str, info: CheckpointInfo | None) -> SignalRequest:
    request = SignalRequest()
    for student in expanded.students:
        if name in student.teachers.values():
            request |= requested_signals(student.objectives, student.template, teacher=name, info=info)
    return request


def _tables(config: RunConfig, request: SignalRequest, info: CheckpointInfo | None) -> dict[str, float]:
    sizes = TeacherSizes(info.width, head_width=info.embedding_width, vocab_size=info.vocab_size) if info else None
    section = config.corpus
    rows = float(section.max_length) if section.packing else 64.0
    return bytes_per_token(
        request, config.signals.hidden_codec, sizes, section.masking.probability, tokens_per_row=rows
    )


def _teacher(
    expanded: ExpandedRun,
    name: str,
    info: CheckpointInfo | None,
    tokens: Mapping[str, float],
    epochs: float | None,
) -> TeacherJob:
    config = expanded.config
    request = _request(expanded, name, info)
    tables = _tables(config, request, info)
    heard = {lang for one in expanded.students for lang, teacher in one.teachers.items() if teacher == name}
    own = sum(tokens[language] for language in heard) * config.corpus.masking.copies
    is_live = config.signals.mode == "live"
    if is_live:  # as often as a group reads
        own = sum(
            sum(read.values())
            for group in expanded.groups
            for student in group.students[:1]
            if name in student.teachers.values()
            for read in [_read(expanded, student, tokens, epochs)]
        )
    return TeacherJob(
        name=name,
        tokens=own,
        flops_per_token=teacher_flops(info, request, masked_share=config.corpus.masking.probability),
        tables=tables,
        stored_per_token=sum(size for table, size in tables.items() if not is_live or table in ROW_TABLES),
    )


def _group(
    expanded: ExpandedRun,
    group: GroupSpec,
    infos: Mapping[str, CheckpointInfo | None],
    tokens: Mapping[str, float],
    epochs: float | None,
) -> GroupJob:
    training = expanded.config.training
    students = tuple(_student(expanded, one, infos, tokens, epochs) for one in group.students)
    per_step = training.accumulation * training.tokens_per_batch
    return GroupJob(
        name=group.name,
        students=students,
        steps=max(student.tokens for student in students) / per_step,
        micro_batches=training.accumulation * len(students),
    )


def _read(
    expanded: ExpandedRun, student: StudentSpec, tokens: Mapping[str, float], epochs: float | None
) -> dict[str, float]:
    """Tokens of each language that a student reads."""
    training, own = expanded.config.training, {language: tokens[language] for language in student.languages}
    total = float(training.steps * training.accumulation * training.tokens_per_batch)
    times = epochs if epochs is not None else total / max(1.0, sum(own.values()))
    return {language: times * count for language, count in own.items()}


def _student(
    expanded: ExpandedRun,
    student: StudentSpec,
    infos: Mapping[str, CheckpointInfo | None],
    tokens: Mapping[str, float],
    epochs: float | None,
) -> StudentJob:
    config, template = expanded.config, student.template
    read = _read(expanded, student, tokens, epochs)
    tables = {
        name: _tables(
            config, requested_signals(student.objectives, template, teacher=name, info=infos[name]), infos[name]
        )
        for name in set(student.teachers.values())
    }
    moved = _bytes_of(student, read, tables)
    rows = {name: {table: size for table, size in own.items() if table in ROW_TABLES} for name, own in tables.items()}
    stored = _bytes_of(student, read, rows) if config.signals.mode == "live" else moved
    full = sum(info.vocab_size for name in tables if (info := infos[name]) is not None)
    vocabulary = min(full or template.vocabulary.max_size or 0, template.vocabulary.max_size or full)
    encoder = encoder_parameters(student)
    total = sum(read.values())
    return StudentJob(
        name=student.name,
        tokens=total,
        flops_per_token=student_flops(student, vocabulary, masked_share=config.corpus.masking.probability),
        read_per_token=moved / max(1.0, total),
        stored_per_token=stored / max(1.0, total),
        parameters=encoder + vocabulary * template.hidden_size,
    )


def _bytes_of(student: StudentSpec, read: Mapping[str, float], tables: Mapping[str, Mapping[str, float]]) -> float:
    """Of what a student reads, where tables cost so many bytes per token."""
    return sum(count * sum(tables[student.teachers[language]].values()) for language, count in read.items())


def teacher_flops(info: CheckpointInfo | None, request: SignalRequest, *, masked_share: float) -> float:
    """Of one token: every layer, and the head where it is masked or asked for at every token."""
    if info is None or not request.needs_model:
        return 0.0
    head = info.vocab_size * info.width
    everywhere = 1.0 if request.at_all_tokens else masked_share
    return 2.0 * (info.num_parameters - head) + 2.0 * (everywhere if request.needs_head else 0.0) * head


def encoder_parameters(student: StudentSpec) -> int:
    """Of all layers; word vectors and biases are left out."""
    template = student.template
    matrices = 3 if template.architecture == "modernbert" else 2  # of the feed-forward layer
    width = template.hidden_size
    return template.layers * width * (4 * width + matrices * template.feed_forward_size)


def student_flops(student: StudentSpec, vocabulary: int, *, masked_share: float) -> float:
    """Of one token, forward and backward: every layer, and the head where it is masked."""
    return 6.0 * (encoder_parameters(student) + masked_share * vocabulary * student.template.hidden_size)
