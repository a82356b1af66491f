"""What is to be evaluated: plain data that travels to any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.config.corpus import CorpusSection
from orchestrator.config.run import EvaluationSection
from orchestrator.storage import Place

Role = Literal["student", "teacher", "baseline"]


@dataclass(frozen=True)
class EvaluatedModel:
    """One encoder, the languages it serves, and what ties its ids to those of its teachers.

    `folder` is a Hugging Face folder or a name on the hub; a teacher without one is a tokenizer alone, which decides
    the tokens of its languages and is not measured itself. All mappings are by language.
    """

    name: str
    role: Role
    folder: str | None
    languages: tuple[str, ...]
    made_from: str = ""  # a digest: what lies in `folder` is the same as long as it is
    revision: str | None = None
    tokenizers: Mapping[str, str] = field(default_factory=dict)  # what emits this model's ids; default: `folder`
    teachers: Mapping[str, str] = field(default_factory=dict)  # the name of the teacher whose tokens are predicted
    maps: Mapping[str, str] = field(
        default_factory=dict
    )  # .npy, int32 teacher id -> id, -1 none; default: the same ids

    def tokenizer(self, language: str) -> str:
        """Where the tokenizer that emits this model's ids for `language` lies."""
        path = self.tokenizers.get(language, self.folder)
        assert path is not None, f"{self.name} has neither a folder nor a tokenizer for {language}"
        return path


@dataclass(frozen=True)
class EvaluationJob:
    """All models of a run and the text to measure them on.

    `systems` names groups of models that together serve several languages, as the students of one-to-many do; a
    language is encoded by the first of the group that serves it. A model that serves several languages is a system of
    its own, under its own name, without being listed.
    """

    models: tuple[EvaluatedModel, ...]  # teachers among them, by their role
    corpus_folder: Place
    corpus: CorpusSection
    evaluation: EvaluationSection
    systems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seed: int = 0
    threads: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def model(self, name: str) -> EvaluatedModel:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)

    def all_systems(self) -> dict[str, tuple[EvaluatedModel, ...]]:
        """System name -> its models: every model that serves two languages or more, then the named groups."""
        alone = {model.name: (model,) for model in self.models if len(model.languages) > 1 and model.folder is not None}
        return alone | {name: tuple(map(self.model, names)) for name, names in self.systems.items()}
