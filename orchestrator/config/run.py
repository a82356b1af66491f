"""The whole configuration of a run: one frozen tree, one section per room."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import Language, Name, Positive, Section, Share, nearest
from orchestrator.config.corpus import CorpusSection, ParallelSource
from orchestrator.config.models import ShareSection, StudentSection, StudentTemplate, TeacherSection
from orchestrator.config.objectives import Objective
from orchestrator.config.plan import PlanSection
from orchestrator.config.transfer import TaskSection, TransferSection
from orchestrator.errors import ConfigError

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

    `teacher` chooses the one of one-to-one and one-to-many among several.
    """

    root: str = "runs/orch"
    stores: str | None = None
    seed: int = 0
    setup: Setup = "one-to-one"
    teacher: Name | None = None


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


class ClusterSection(Section):
    """Where work runs. `address` None starts Ray on this machine; `in-process` uses no Ray at all.

    `student_workers` processes train each group of students together, data-parallel: the micro-batches of a step go to
    them in turn, so more of them than a step has would idle. `cpus_per_student`, `gpus_per_student`: of each process.
    """

    address: str | None = None
    teacher_actors: Positive | None = None
    cpus_per_teacher: float | None = Field(default=None, gt=0.0)
    gpus_per_teacher: float | None = Field(default=None, ge=0.0)
    cpus_per_student: float | None = Field(default=None, gt=0.0)
    gpus_per_student: float | None = Field(default=None, ge=0.0)
    student_workers: Positive = 1
    unit_deadline_seconds: float = Field(default=3600.0, gt=0.0)
    max_attempts: Positive = 3
    object_store_megabytes: Positive = 512


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
