"""What a student is trained for. Each objective names its own options; an option of another one is an error."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from orchestrator.config.base import Positive, Section

MapName: TypeAlias = Literal["uniform", "top", "bottom", "last", "skip"]
#: A named layer map, or {student layer: teacher layer}, both counted from 1.
LayerMapSpec: TypeAlias = MapName | dict[int, int]


class _Objective(Section):
    weight: float = Field(default=1.0, ge=0.0)


class MaskedLMObjective(_Objective):
    """−log p(true token) at masked positions (Devlin et al. 2019). Needs no teacher."""

    type: Literal["masked-lm"]


class SoftTargetsObjective(_Objective):
    """T²·KL(teacher ‖ student) over the teacher's top k ids (Hinton et al. 2015); the rest by `tail`."""

    type: Literal["soft-targets"]
    k: Positive = 64
    temperature: float = Field(default=1.0, gt=0.0)
    tail: Literal["ghost", "renormalise", "drop"] = "ghost"


class HiddenStatesObjective(_Objective):
    """Distance between matched hidden states at every token; `embeddings` adds layer 0 to the map (TinyBERT)."""

    type: Literal["hidden-states"]
    distance: Literal["mse", "cosine"] = "mse"
    map: LayerMapSpec = "uniform"
    embeddings: bool = False
    projection: Literal["none", "linear"] = "linear"
    per_layer: bool = True

    @field_validator("map")
    @classmethod
    def _counted_from_one(cls, value: LayerMapSpec) -> LayerMapSpec:
        if isinstance(value, dict) and any(layer < 1 for pair in value.items() for layer in pair):
            raise ValueError("layers of a map are counted from 1; use 'embeddings: true' for the embedding output")
        return value


Objective: TypeAlias = Annotated[
    MaskedLMObjective | SoftTargetsObjective | HiddenStatesObjective, Field(discriminator="type")
]
