"""What is to be fine-tuned and tested: plain data, without a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.errors import DataError
from orchestrator.transfer.modes import Mode

Role = Literal["student", "teacher", "baseline"]


@dataclass(frozen=True)
class Student:
    """One encoder in a folder (or on the hub); beside a teacher's tokenizer may lie elsewhere."""

    folder: str
    tokenizer: str
    revision: str | None = None

    def tokenizer_for(self, language: str) -> str:
        """What reads `language`: a student of several teachers has a tokenizer for each of its languages."""
        own = Path(self.tokenizer, "tokenizers", language)
        return str(own) if own.is_dir() else self.tokenizer


@dataclass(frozen=True)
class TransferModel:
    """One model for all its languages, or one student for each of them; `teacher` is who `distil` listens to."""

    name: str
    role: Role
    students: Mapping[str, Student]  # language -> who serves it
    teacher: Student | None = None

    def student(self, language: str) -> Student:
        """Who serves `language`; DataError when nobody does."""
        if language not in self.students:
            raise DataError(f"'{self.name}' has no student for '{language}'; choose among {', '.join(self.students)}.")
        return self.students[language]


@dataclass(frozen=True)
class Training:
    """One fine-tuning: what is trained (`freeze` trains the `top` layers), in which students at once.

    Two of them (source, target) share what is trained; a `teacher` is tuned wholly before, and its logits are matched.
    """

    what: Literal["full", "freeze", "adapter", "bitfit"]
    students: tuple[Student, ...]
    seed: int
    top: int = 0
    teacher: Student | None = None

    @property
    def teacher_training(self) -> Training | None:
        """How the teacher is tuned, if there is one."""
        return None if self.teacher is None else Training("full", (self.teacher,), self.seed)


@dataclass(frozen=True)
class Cell:
    """One figure of the table: a mode, from `source` to `target`, with one seed.

    `tested` is the student that is tested. Unless it was trained itself, what was trained in the training's first
    student is moved into it.
    """

    model: TransferModel
    mode: Mode
    source: str
    target: str
    training: Training
    tested: Student

    @property
    def is_moved(self) -> bool:
        """Whether what was trained goes from one student into another."""
        return self.tested not in self.training.students

    @classmethod
    def plan(cls, model: TransferModel, mode: Mode, *, source: str, target: str, seed: int) -> Cell:
        """What a mode means for this model; where one student serves both languages, its places are all the same.

        Raises:
            DataError: nobody serves a language, or `distil` has no teacher.
        """
        giver, taker = model.student(source), model.student(target)
        where = {"src": (giver,), "trg": (taker,), "joint": (giver,) if giver == taker else (giver, taker)}
        students = where[mode.place]
        teacher = None
        if mode.name == "distil":
            teacher = model.teacher
            if teacher is None:
                raise DataError(
                    f"Mode distil: '{model.name}' has no teacher to learn from; name one with --teacher, or leave this "
                    "mode out."
                )
        training = Training(mode.what, students, seed, top=mode.top, teacher=teacher)
        return cls(model, mode, source, target, training, giver if mode.name == "full-src" else taker)
