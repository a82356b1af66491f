"""Teachers as they are found, students as they are to be built."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from orchestrator.config.base import Language, Name, Positive, Section
from orchestrator.config.objectives import LayerMapSpec, Objective


class TeacherSection(Section):
    """A frozen encoder, from a folder or the hub (`revision` pinned), and the languages it answers for.

    Without `model` it is a tokenizer alone: text is tokenised and masked for ordinary pre-training.
    """

    languages: tuple[Language, ...] = Field(min_length=1)
    model: str | None = None
    tokenizer: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tokens_per_batch: Positive = 4096
    threads: Positive = 1

    @model_validator(mode="after")
    def _something_to_load(self) -> TeacherSection:
        if self.model is None and self.tokenizer is None:
            raise ValueError("give 'model', or 'tokenizer' alone for pre-training without a teacher")
        return self

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer is read from: its own path, else the model's."""
        path = self.tokenizer or self.model
        assert path is not None
        return path


class InitialisationSection(Section):
    """Where a student's weights start.

    `layers`: at random, or from a teacher by `map`, a map of its own. `embedding`: at random, or the teachers' rows
    through the id map, of equal widths by `copy`, of larger ones cut down by `svd`, or `mean`: a row for each token of
    the student's from the mean of its pieces' rows in the teacher's tokenizer. `checkpoint`: a folder or a name on
    the hub whose layers (by the map) and rows are taken in place of a teacher's. What is frozen stays as it starts.
    """

    layers: Literal["random", "teacher"] = "random"
    map: LayerMapSpec = "uniform"
    embedding: Literal["random", "teacher", "copy", "mean", "svd"] = "teacher"
    teacher: Name | None = None
    checkpoint: str | None = None
    revision: str | None = None


class VocabularySection(Section):
    """`full`: the teachers' whole vocabularies; `trim`: what the student's languages use in the corpus."""

    keep: Literal["full", "trim"] = "trim"
    min_count: Positive = 1
    max_size: Positive | None = None
    merge: Literal["canonical", "surface"] = "canonical"


class StudentTemplate(Section):
    """The architecture of a student and how it starts."""

    architecture: Literal["bert", "roberta", "distilbert", "electra", "modernbert"] = "bert"
    layers: Positive = 4
    hidden_size: Positive = 256
    heads: Positive = 4
    intermediate_size: Positive | None = None
    max_positions: Positive = 512
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    tie_head: bool = True
    initialisation: InitialisationSection = InitialisationSection()
    vocabulary: VocabularySection = VocabularySection()

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> StudentTemplate:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        return self

    @property
    def feed_forward_size(self) -> int:
        """`intermediate_size`, by default 4 times the width, for ModernBERT (two matrices lead into it) 1.5 times."""
        usual = 3 * self.hidden_size // 2 if self.architecture == "modernbert" else 4 * self.hidden_size
        return self.intermediate_size or usual


class StudentSection(StudentTemplate):
    """One student written out: its languages and the teacher that answers for each."""

    languages: tuple[Language, ...] = Field(min_length=1)
    teachers: dict[Language, Name] = Field(default_factory=dict)
    objectives: tuple[Objective, ...] | None = None
    role: Literal["student", "baseline"] = "student"
    group: Name | None = None


class ShareSection(Section):
    """What the students of a group have in common: `embedding`, `head`, `layer-1` …, and the projections."""

    parts: tuple[str, ...] = ()
    projections: bool = False

    @model_validator(mode="after")
    def _known_parts(self) -> ShareSection:
        for part in self.parts:
            number = part.removeprefix("layer-")
            if part not in ("embedding", "head") and not (
                part.startswith("layer-") and number.isdigit() and int(number) > 0
            ):
                raise ValueError(f"'{part}' cannot be shared; known: embedding, head, layer-1, layer-2, …")
        return self
