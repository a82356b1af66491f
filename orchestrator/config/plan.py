"""What `orch plan --nodes` takes as given where text or a teacher is not at hand."""

from __future__ import annotations

from pydantic import Field

from orchestrator.config.base import Language, Name, Positive, Section


class PlannedTeacher(Section):
    """The sizes of a teacher whose checkpoint is elsewhere."""

    layers: Positive
    hidden_size: Positive
    heads: Positive
    vocab_size: Positive
    intermediate_size: Positive | None = None

    @property
    def feed_forward_size(self) -> int:
        """`intermediate_size`, by default 4 times the width."""
        return self.intermediate_size or 4 * self.hidden_size


class PlanSection(Section):
    """Sizes of teachers, and how much text each language has, of `bytes_per_token` bytes (UTF-8) for a token."""

    teachers: dict[Name, PlannedTeacher] = Field(default_factory=dict)
    text_gigabytes: dict[Language, float] = Field(default_factory=dict)
    bytes_per_token: float = Field(default=5.0, gt=0.0)
