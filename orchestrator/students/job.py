"""What a worker is told about a group of students: plain data that travels to any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.config.corpus import ParallelText
from orchestrator.config.models import ShareSection, TeacherSection
from orchestrator.config.run import TrainingSection
from orchestrator.config.setups import GroupSpec
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.records import SignalRequest
from orchestrator.storage import Place
from orchestrator.students.source import Asking

#: The file in `final/` that says which inputs the student came from; it is there if and only if the export is whole.
RECEIPT = "training.json"


@dataclass(frozen=True)
class TeacherFacts:
    """Where a teacher's signals lie, and what a student has to know of it. `info` None: a tokenizer alone.

    `live`: who is asked for what the store lacks while students train; None where all is stored.
    """

    section: TeacherSection
    store: Place
    info: CheckpointInfo | None
    live: Asking | None = None


@dataclass(frozen=True)
class SentenceFacts:
    """Parallel text that students are held to a teacher's vectors of, those of its sentences in `pivot`."""

    text: ParallelText
    pivot: str
    teacher: str
    store: Place


@dataclass(frozen=True)
class Seat:
    """Which of the workers that train a group together this is; `address`, HOST:PORT, is where they meet."""

    rank: int = 0
    size: int = 1
    address: str = ""


#: The seat of one worker that trains a group by itself.
ALONE = Seat()


@dataclass(frozen=True)
class GroupJob:
    """Train one group of students to its end; the same job always gives the same students."""

    group: GroupSpec
    setup: str
    root: Path
    seed: int
    training: TrainingSection
    share: ShareSection
    alpha: float
    max_epochs: float
    max_length: int  # tokens of the longest row
    teachers: Mapping[str, TeacherFacts]
    vocabularies: Mapping[str, Path]  # origin of the students -> folder
    requests: Mapping[str, Mapping[str, SignalRequest]]  # student -> teacher -> what it reads
    fingerprint: str
    threads: int
    sentences: Mapping[str, tuple[SentenceFacts, ...]] = field(default_factory=dict)  # student -> what it reads
    seat: Seat = ALONE

    def folder(self, student: str) -> Path:
        """Everything of one student."""
        return self.root / "students" / self.setup / student


@dataclass(frozen=True)
class GroupResult:
    """What training cost."""

    group: str
    steps: int
    seconds: float
    tokens: dict[str, int]
