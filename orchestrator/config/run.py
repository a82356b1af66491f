"""The whole configuration of a run: one frozen tree, one section per room."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import Language, Name, Positive, Section, Share, nearest
from orchestrator.config.corpus import CorpusSection, ParallelSource
from orchestrator.config.models import ShareSection, StudentSection, StudentTemplate, TeacherSection
from orchestrator.config.objectives import Objective
from orchestrator.config.plan import PlanSection
from orchestrator.config.transfer import TaskSection, TransferSection
from orchestrator.errors import ConfigError, StorageError
from orchestrator.storage import place

Setup: TypeAlias = Literal["one-to-one", "many-to-one", "one-to-many", "explicit"]
SETUPS: tuple[Setup, ...] = ("one-to-one", "many-to-one", "one-to-many", "explicit")


def known_setup(name: str | None) -> Setup | None:
    """`--setup` as it was given; ConfigError when there is no such setup."""
    found = next((setup for setup in SETUPS if setup == name), None)
    if name is not None and found is None:
        raise ConfigError(f"--setup {name}: no such setup; {nearest(name, list(SETUPS))}")
    return found


class RunSection(Section):
    """Everything of a run lies under `root`, but for what several runs share (text, signals, vocabularies) in `stores`.

    `stores` may be s3://bucket/prefix or gs://bucket/prefix; copies of what is read lie in `cache` (else in ORCH_CACHE
    or ~/.cache/orch), at most `cache_gigabytes`. `teacher` chooses the one of one-to-one and one-to-many among several.
    """

    root: str = "runs/orch"
    stores: str | None = None
    cache: str | None = None
    cache_gigabytes: float = Field(default=50.0, gt=0.0)
    seed: int = 0
    setup: Setup = "one-to-one"
    teacher: Name | None = None

    @field_validator("root", "cache")
    @classmethod
    def _is_a_folder(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and not value.startswith("file:///"):
            raise ValueError("give a folder of this machine; only run.stores can be on an object store")
        return value

    @field_validator("stores")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        try:
            place(value or "")
        except StorageError:
            raise ValueError(
                "give a folder, s3://bucket/prefix or gs://bucket/prefix, without user, password or options"
            ) from None
        return value


class SignalsSection(Section):
    """How what the teachers say reaches the students.

    cache: stored before training. live: streamed to the students while they train, nothing on disk. hybrid: streamed
    and stored in the first epoch, read afterwards. The same seed gives the same students in all three.
    """

    mode: Literal["cache", "live", "hybrid"] = "cache"
    hidden_codec: Literal["fp16", "int8"] = "int8"
    shard_megabytes: Positive = 64


class TrainingSection(Section):
    """The training loop. `tokens_per_batch` counts the tokens of one micro-batch of one language."""

    steps: Positive = 1000
    tokens_per_batch: Positive = 4096
    accumulation: Positive = 1
    learning_rate: float = Field(default=5e-4, gt=0.0)
    warmup_share: Share = 0.06
    decay: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(default=0.01, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = Field(default=1.0, gt=0.0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None
    log_every: Positive = 10
    checkpoint_seconds: float = Field(default=120.0, gt=0.0)
    keep_checkpoints: Positive = 2
    freeze: tuple[str, ...] = ()
    baseline: bool = True


class PhaseSection(Section):
    """A stage of training: `share` of the steps, with objectives of its own.

    `progress` cuts the phase into one part per student layer m: `bottom-up`, layers 1 … m are matched (PKD, SID);
    `layer-by-layer`, layer m alone, everything below it frozen (MobileBERT); `unfreeze-down`, the m top layers are
    trained, everything below frozen (XtremeDistil). `freeze`: embedding, layers, layer-1 …, head. `learning_rate`:
    this phase has a peak, a warm-up and a decay of its own; else the training's schedule goes on.
    """

    name: Name
    share: float = Field(gt=0.0, le=1.0)
    objectives: tuple[Objective, ...] = Field(min_length=1)
    progress: Literal["none", "bottom-up", "layer-by-layer", "unfreeze-down"] = "none"
    freeze: tuple[str, ...] = ()
    learning_rate: float | None = Field(default=None, gt=0.0)


class EvaluationSection(Section):
    """What is measured at the end, on held-out text, on parallel text, and by linear probes on labelled sentences."""

    max_texts: Positive = 500
    parallel: tuple[ParallelSource, ...] = ()
    probes: dict[Name, TaskSection] = Field(default_factory=dict)
    teachers: bool = True

    @field_validator("probes")
    @classmethod
    def _of_sentences(cls, probes: dict[Name, TaskSection]) -> dict[Name, TaskSection]:
        for name, task in probes.items():
            if task.kind != "sentence":
                raise ValueError(f"'{name}' is of kind {task.kind}; a probe reads one vector a sentence: kind sentence")
        return probes

    @field_validator("parallel")
    @classmethod
    def _names_differ(cls, parallel: tuple[ParallelSource, ...]) -> tuple[ParallelSource, ...]:
        if len({source.name for source in parallel}) != len(parallel):
            raise ValueError("two sources have one name, which is what their figures are told apart by")
        return parallel


class TeacherActors(Section):
    """How many actors teachers run on: `min` are asked for at once, even of a cluster that has no room for them yet.

    More come while units wait and they find room, up to `max` (none: as many as find room). One number is both.
    """

    min: Positive = 1
    max: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_number_is_both(cls, data: object) -> object:
        return {"min": data, "max": data} if isinstance(data, int) else data

    @model_validator(mode="after")
    def _in_order(self) -> TeacherActors:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


Amount: TypeAlias = Annotated[float, Field(gt=0.0)]
Placement: TypeAlias = Literal["pack", "spread"]


class ClusterSection(Section):
    """Where work runs. `address` None starts Ray on this machine; `in-process` uses no Ray at all.

    What one teacher actor, and each process that trains students, takes of its machine: CPUs, GPUs (0.25: four share
    one), and what else machines were started with (`ray start --resources`). What is not said is chosen
    (docs/cluster.md). They are packed onto few machines, or spread over all.

    `student_workers` processes train each group of students together, data-parallel: the micro-batches of a step go to
    them in turn, so more of them than a step has would idle.
    """

    address: str | None = None
    teacher_actors: TeacherActors = TeacherActors()
    cpus_per_teacher: Amount | None = None
    gpus_per_teacher: float | None = Field(default=None, ge=0.0)
    resources_per_teacher: dict[str, Amount] = Field(default_factory=dict)
    teacher_placement: Placement = "pack"
    cpus_per_student: Amount | None = None
    gpus_per_student: float | None = Field(default=None, ge=0.0)
    resources_per_student: dict[str, Amount] = Field(default_factory=dict)
    student_placement: Placement = "pack"
    student_workers: Positive = 1
    unit_deadline_seconds: float = Field(default=3600.0, gt=0.0)
    max_attempts: Positive = 3
    object_store_megabytes: Positive = 512

    @field_validator("gpus_per_teacher", "gpus_per_student")
    @classmethod
    def _a_part_or_whole_ones(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} GPUs: give a part of one GPU (0.5), or whole ones")
        return gpus

    @field_validator("resources_per_teacher", "resources_per_student")
    @classmethod
    def _other_than_the_usual(cls, resources: dict[str, float]) -> dict[str, float]:
        for name in {"CPU", "GPU", "memory", "object_store_memory"} & set(resources):
            raise ValueError(f"'{name}' is not a resource of one's own; CPUs and GPUs have keys of their own")
        return resources

    @model_validator(mode="after")
    def _a_gpu_for_each_of_several_workers(self) -> ClusterSection:
        if self.student_workers > 1 and self.gpus_per_student is not None and 0 < self.gpus_per_student < 1:
            raise ValueError(
                f"student_workers {self.student_workers} with gpus_per_student {self.gpus_per_student:g}: workers that "
                "exchange gradients by NCCL need a GPU each; give 1, or 0 for gloo on CPUs"
            )
        return self


class RunConfig(Section):
    """An orch.yaml, read and checked: `objectives` for the whole training, or `phases` with their own."""

    run: RunSection = RunSection()
    corpus: CorpusSection
    teachers: dict[Name, TeacherSection] = Field(min_length=1)
    routes: dict[Language, Name] = Field(default_factory=dict)
    student: StudentTemplate | None = None
    groups: dict[Name, tuple[Language, ...]] = Field(default_factory=dict)
    students: dict[Name, StudentSection] = Field(default_factory=dict)
    share: ShareSection = ShareSection()
    objectives: tuple[Objective, ...] = ()
    phases: tuple[PhaseSection, ...] = ()
    signals: SignalsSection = SignalsSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    transfer: TransferSection = TransferSection()
    cluster: ClusterSection = ClusterSection()
    plan: PlanSection = PlanSection()

    @model_validator(mode="after")
    def _objectives_or_phases(self) -> RunConfig:
        if bool(self.objectives) == bool(self.phases):
            raise ValueError("give either 'objectives' or 'phases' (or a 'recipe', which has one of them)")
        total = sum(phase.share for phase in self.phases)
        if self.phases and abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares of 'phases' make {total:g} together; they must make 1")
        if len({phase.name for phase in self.phases}) != len(self.phases):
            raise ValueError("two of 'phases' have one name")
        return self
