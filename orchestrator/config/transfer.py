"""Labelled tasks on which models are fine-tuned in one language and tested in others, and how they are tuned."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import Name, Positive, Section, Share
from orchestrator.config.corpus import TextSource

TaskKind: TypeAlias = Literal["sentence", "words", "entities"]
#: Rows of a table: column -> the values that let a row through.
Rows: TypeAlias = dict[str, tuple[str, ...]]


class TaskSection(Section):
    """A table (Parquet, JSON lines) with one sentence per row, in any number of files and languages.

    kind: `sentence`, one label per row; `words`, one per word; `entities`, one per word as B-X, I-X or O.
    text: the column with the text, for words and entities a list of words. label: the column with what is to be said.
    language: the column with the language's code. train, test: which rows, as column -> values. max_train, max_test:
    so many rows of a language at most, evenly spread.
    """

    kind: TaskKind
    files: tuple[str, ...] = Field(min_length=1)
    label: str
    text: str = "text"
    language: str = "lang"
    train: Rows = Field(default={"split": ("train",)})
    test: Rows = Field(default={"split": ("test",)})
    max_train: Positive | None = None
    max_test: Positive | None = None

    _files = field_validator("files", mode="before")(TextSource._one_file_is_a_list.__func__)  # type: ignore[attr-defined]
    _rows = field_validator("train", "test", mode="before")(TextSource._one_value_is_a_list.__func__)  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _words_are_in_tokens(cls, data: object) -> object:
        """Where words are labelled, the usual name of their column is `tokens`."""
        if isinstance(data, dict) and data.get("kind") in ("words", "entities"):
            return {"text": "tokens", **data}
        return data


class TransferSection(Section):
    """Fine-tuning: `steps` batches of `batch_size` sentences, AdamW with a linear warm-up and decay.

    `learning_rate` is that of the encoder's own weights; what starts new or is a small part (the task's head, adapters,
    biases) has `light_learning_rate`. `distil_weight`: of the squared distance to the teacher's task logits, beside
    cross-entropy. `max_length` cuts training sentences; test sentences are only cut where the model cannot read more.
    """

    tasks: dict[Name, TaskSection] = Field(default_factory=dict)
    steps: Positive = 500
    batch_size: Positive = 32
    max_length: int = Field(default=128, ge=8)
    learning_rate: float = Field(default=1e-4, gt=0.0)
    light_learning_rate: float = Field(default=1e-3, gt=0.0)
    warmup_share: Share = 0.1
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip_norm: float = Field(default=1.0, gt=0.0)
    adapter_width: Positive = 48
    distil_weight: float = Field(default=1.0, ge=0.0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None
