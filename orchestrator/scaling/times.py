"""How long a job takes on many machines, and what it waits for.

Every formula stands in docs/scaling.md. A device is a GPU, or all cores of a machine that has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil

from orchestrator.scaling.jobs import GroupJob, Job, TeacherJob
from orchestrator.signals.manifest import MOST_SHARDS

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
DRIVER_UNITS_PER_SECOND = 300.0
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
