"""What a job takes on many machines, from sizes and rates alone: nothing is read but a configuration.

Every formula stands in docs/scaling.md, under the name that it has here. A device is a GPU, or all cores of a machine
that has none. Shape legend: V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, floor

from orchestrator.config.plan import PlannedTeacher
from orchestrator.config.run import RunConfig
from orchestrator.config.setups import ExpandedRun, GroupSpec, StudentSpec
from orchestrator.errors import ConfigError
from orchestrator.models.checkpoints import CheckpointInfo, describe_checkpoint
from orchestrator.records import SignalRequest
from orchestrator.signals.manifest import MOST_SHARDS
from orchestrator.signals.schema import ROW_TABLES, TeacherSizes, bytes_per_token
from orchestrator.students.requests import requested_signals

#: Shares of a big matrix product's speed that a teacher's forward pass and a student's step reach on the whole.
TEACHER_EFFICIENCY, STUDENT_EFFICIENCY = 0.5, 0.25

# Measured on two cores of an EPYC (docs/scaling.md says how, and with which spread).
#: Bytes of text that the driver reads, checks and writes as the corpus; it is one process.
CORPUS_BYTES_PER_SECOND = 20e6
#: Tokens that a teacher's process tokenises, masks, codes and writes, besides what the model takes.
HOST_TOKENS_PER_SECOND = 180e3
#: Tokens that a student's process reads, gathers, decodes and maps to its ids, ahead of the steps.
READER_TOKENS_PER_SECOND = 1.1e6
#: Units that the driver hands out and takes back, with some hundred actors.
DRIVER_UNITS_PER_SECOND = 150.0
#: Memory of the driver for a shard: its place in the manifest, its receipt.
DRIVER_BYTES_PER_SHARD = 6e3


@dataclass(frozen=True)
class Machines:
    """`gpus` of each node; `network_gbit` in and out of a node, `storage_gbit` of the shared disk (None: no limit)."""

    nodes: int
    gpus: int
    network_gbit: float = 10.0
    storage_gbit: float | None = None

    @property
    def devices(self) -> int:
        """Of all nodes."""
        return self.nodes * max(1, self.gpus)


@dataclass(frozen=True)
class Rates:
    """Tokens per second of one device where somebody measured or gave them, else from FLOP/s of a matrix product."""

    flops: float
    teachers: Mapping[str, float] = field(default_factory=dict)
    students: float | None = None


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


@dataclass(frozen=True)
class Demand:
    """What a phase asks of one resource: how long that alone would take."""

    resource: str
    seconds: float
    detail: str = ""
    num_bytes: float | None = None


@dataclass(frozen=True)
class Phase:
    """Work that goes on at once; it takes as long as what is asked most of."""

    name: str
    demands: tuple[Demand, ...]

    @property
    def bottleneck(self) -> Demand:
        """What it waits for."""
        return max(self.demands, key=lambda demand: demand.seconds)

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.bottleneck.seconds


@dataclass(frozen=True)
class ScalePlan:
    """What `orch plan --nodes` shows."""

    job: Job
    machines: Machines
    phases: tuple[Phase, ...]
    device_seconds: Mapping[str, float]  # teachers, students: of all devices together
    units: int

    @property
    def seconds(self) -> float:
        """From the first byte of text to the last step; evaluation is extra."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def bottleneck(self) -> Phase:
        """The phase that takes longest."""
        return max(self.phases, key=lambda phase: phase.seconds)

    @property
    def has_too_many_shards(self) -> bool:
        """More than a store may have."""
        return any(one.num_bytes > MOST_SHARDS * self.job.shard_bytes for one in self.job.teachers)

    @property
    def driver_bytes(self) -> float:
        """Memory of the driver for what it knows of shards."""
        return self.units * DRIVER_BYTES_PER_SHARD


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


def scale(job: Job, machines: Machines, rates: Rates) -> ScalePlan:
    """How long a job takes on such machines, and what it waits for."""
    actors = job.teachers_per_gpu if machines.gpus else 1
    teaching = {one.name: _teacher_seconds(one, rates, actors) for one in job.teachers}
    learning = {one.name: _group_seconds(one, rates) for one in job.groups}
    units = sum(ceil(one.num_bytes / job.shard_bytes) for one in job.teachers)
    reading = Demand("driver", job.text_bytes / CORPUS_BYTES_PER_SECOND, "one process", job.text_bytes)
    phases = [Phase("text", (reading,))]
    whole, half = machines.devices, max(1, machines.devices // 2)
    if job.mode == "cache":
        phases.append(Phase("teachers", tuple(_teaching(job, machines, teaching, whole, units))))
        phases.append(Phase("students", tuple(_learning(job, machines, learning, whole))))
    else:  # each has half of the devices, and the slower ones decide
        both = [*_teaching(job, machines, teaching, half, units), *_learning(job, machines, learning, half)]
        phases.append(Phase("teachers and students", tuple(both)))
    spent = {"teachers": sum(teaching.values()), "students": sum(learning.values())}
    return ScalePlan(job, machines, tuple(phases), spent, units)


def _teacher_seconds(one: TeacherJob, rates: Rates, actors: int) -> float:
    """Of one device: the model's passes, and what each of its processes does beside them, one after the other."""
    if one.name in rates.teachers:
        return one.tokens / rates.teachers[one.name]
    model = one.flops_per_token / (rates.flops * TEACHER_EFFICIENCY)
    return one.tokens * max(model, (model + 1 / HOST_TOKENS_PER_SECOND) / actors)


def _group_seconds(one: GroupJob, rates: Rates) -> float:
    """Of one device, without the exchange of gradients: its steps, or what its process reads ahead of them."""
    if rates.students is not None:
        return sum(student.tokens for student in one.students) / rates.students
    steps = sum(one.tokens * one.flops_per_token for one in one.students) / (rates.flops * STUDENT_EFFICIENCY)
    return max(steps, sum(student.tokens for student in one.students) / READER_TOKENS_PER_SECOND)


def _teaching(
    job: Job, machines: Machines, teaching: Mapping[str, float], devices: int, units: int
) -> Iterator[Demand]:
    written = sum(one.num_bytes for one in job.teachers)
    yield Demand("teacher devices", sum(teaching.values()) / devices, f"{devices} of {machines.devices}")
    yield from _moved(written, machines, "written", stored=written, nodes=machines.nodes)
    yield Demand("driver", units / DRIVER_UNITS_PER_SECOND, f"{units:,} shards")


def _learning(job: Job, machines: Machines, learning: Mapping[str, float], devices: int) -> Iterator[Demand]:
    """Groups go side by side, each on its share of the devices, and no group on more than it has micro-batches."""
    at_once = min(devices, len(job.groups))
    share = devices // at_once
    slowest, exchanged, used = 0.0, 0.0, 0
    for group in job.groups:
        workers = min(share, group.micro_batches)
        crosses = workers > max(1, machines.gpus)
        sent = 2 * (workers - 1) / workers * 4.0 * group.parameters if crosses else 0.0
        exchange = group.steps * sent * 8 / (machines.network_gbit * 1e9)
        used += workers
        if learning[group.name] / workers + exchange > slowest:
            slowest, exchanged = learning[group.name] / workers + exchange, exchange
    waves = ceil(len(job.groups) / at_once)
    busy = min(devices, used)
    part = f", of that {exchanged / slowest:.0%} gradients" if exchanged else ""
    yield Demand("student devices", slowest * waves, f"{busy} of {machines.devices}{part}")
    students = [student for group in job.groups for student in group.students]
    read = sum(student.tokens * student.read_per_token for student in students)
    stored = sum(student.tokens * student.stored_per_token for student in students)
    nodes = min(machines.nodes, ceil(busy / max(1, machines.gpus)))
    yield from _moved(read, machines, "read", stored=stored, nodes=nodes)


def _moved(num_bytes: float, machines: Machines, how: str, *, stored: float, nodes: int) -> Iterator[Demand]:
    seconds = 8 * num_bytes / (nodes * machines.network_gbit * 1e9)
    yield Demand("network", seconds, f"{how} by {nodes} nodes", num_bytes)
    if machines.storage_gbit is not None:
        yield Demand("storage", 8 * stored / (machines.storage_gbit * 1e9), how, stored)


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
