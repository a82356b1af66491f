"""How students were made, as a run tells its report: what teachers cost, how large models are, which layers meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.headline import Role

#: Numbers of the parts of an encoder besides its layers, which are counted from 1.
EMBEDDING, HEAD = 0, -1


@dataclass(frozen=True)
class TeacherPass:
    """What one teacher said: `seconds` of its workers, added up; `tables`: bytes on disk."""

    teacher: str
    tokens: int
    seconds: float
    stored_tokens: int
    tables: Mapping[str, int]

    @property
    def num_bytes(self) -> int:
        """Of all tables."""
        return sum(self.tables.values())


@dataclass(frozen=True)
class ModelSize:
    """A model as its files describe it."""

    name: str
    role: Role
    layers: int
    width: int
    vocabulary: int
    parameters: int


@dataclass(frozen=True)
class Link:
    """An objective, or `start`, that joins a part of the teacher to one of the student; `teacher` None: the text."""

    objective: str
    teacher: int | None
    student: int


@dataclass(frozen=True)
class Stage:
    """What is joined, and what is frozen, in one or several phases in a row; steps are counted from 1."""

    phases: tuple[str, ...]
    first_step: int
    last_step: int
    links: tuple[Link, ...]
    frozen: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LayerMap:
    """A teacher and the students that learn alike from it. `starts`: parts that begin as copies of the teacher's."""

    teacher: str
    students: tuple[str, ...]
    teacher_layers: int
    student_layers: int
    starts: tuple[Link, ...]
    start_words: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Making:
    """All of it; what is empty is left out of the page."""

    passes: Sequence[TeacherPass] = ()
    models: Sequence[ModelSize] = ()
    layer_maps: Sequence[LayerMap] = ()
