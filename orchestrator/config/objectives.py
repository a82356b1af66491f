"""What a student is trained for. Each objective names its own options; an option of another one is an error."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import Language, Name, Positive, Section

MapName: TypeAlias = Literal["uniform", "top", "bottom", "middle", "last", "skip"]
#: A named layer map, or {student layer: teacher layer}, both counted from 1.
LayerMapSpec: TypeAlias = MapName | dict[int, int]
#: Where the output layer is compared: at masked positions, or at every token (DistilBERT).
Positions: TypeAlias = Literal["masked", "all"]


class RampSection(Section):
    """A weight that goes from `start` to `end` over a phase's steps `first_step` … `last_step`, and rests outside."""

    schedule: Literal["linear", "cosine"]
    start: float = Field(default=0.0, ge=0.0)
    end: float = Field(default=1.0, ge=0.0)
    first_step: Positive = 1
    last_step: Positive | None = None


class WindowSection(Section):
    """A weight that is `value` at a phase's steps `first_step` … `last_step`, both included, and 0 outside."""

    schedule: Literal["window"]
    value: float = Field(default=1.0, gt=0.0)
    first_step: Positive = 1
    last_step: Positive | None = None


#: A number, or one that depends on the step. Steps are counted from 1 in the phase; `last_step` None is its last.
Weight: TypeAlias = (
    Annotated[float, Field(ge=0.0)] | Annotated[RampSection | WindowSection, Field(discriminator="schedule")]
)


class _Objective(Section):
    weight: Weight = 1.0


class MaskedLMObjective(_Objective):
    """−log p(true token) at masked positions (Devlin et al. 2019). Needs no teacher."""

    type: Literal["masked-lm"]


class HardLabelsObjective(_Objective):
    """−log p(the teacher's most probable token) (Buciluă et al. 2006)."""

    type: Literal["hard-labels"]
    positions: Positions = "masked"


class LogitMatchingObjective(_Objective):
    """½‖z_T − z_S‖² over the ids that both have (Ba & Caruana 2014); `centre` takes each side's mean off first."""

    type: Literal["logit-matching"]
    centre: bool = False
    positions: Positions = "masked"


class SoftTargetsObjective(_Objective):
    """T²·KL(teacher ‖ student) (Hinton et al. 2015).

    `signal`: the teacher's `k` most probable ids, the rest by `tail`; `sampled`, `draws` ids drawn from it with
    replacement (Anshumann et al. 2025); or `exact`, all of it, rebuilt from what its frozen decoder reads.
    """

    type: Literal["soft-targets"]
    signal: Literal["top-k", "sampled", "exact"] = "top-k"
    k: Positive = 64
    draws: Positive = 50
    temperature: float = Field(default=1.0, gt=0.0)
    tail: Literal["ghost", "renormalise", "drop"] = "ghost"
    positions: Positions = "masked"

    @model_validator(mode="after")
    def _options_of_the_signal(self) -> SoftTargetsObjective:
        owner = {"k": "top-k", "tail": "top-k", "draws": "sampled"}
        for option in self.model_fields_set & owner.keys():
            if owner[option] != self.signal:
                raise ValueError(f"'{option}' belongs to signal {owner[option]}, not to {self.signal}; leave it out")
        if self.signal == "sampled" and self.temperature != 1.0:
            raise ValueError("signal sampled is drawn at temperature 1; leave 'temperature' out, or take signal exact")
        return self


class SoftmaxRegressionObjective(_Objective):
    """The teacher's frozen head reads the student's states through a learned connector (Yang et al. 2021).

    `transform`: with the head's dense layer, activation and LayerNorm, or its decoder alone.
    """

    type: Literal["softmax-regression"]
    distance: Literal["cross-entropy", "mse"] = "cross-entropy"
    transform: bool = True
    positions: Positions = "masked"


class _MatchedObjective(_Objective):
    map: LayerMapSpec = "uniform"

    @field_validator("map")
    @classmethod
    def _counted_from_one(cls, value: LayerMapSpec) -> LayerMapSpec:
        if isinstance(value, dict) and any(layer < 1 for pair in value.items() for layer in pair):
            raise ValueError("layers of a map are counted from 1; use 'embeddings: true' for the embedding output")
        return value


class HiddenStatesObjective(_MatchedObjective):
    """Distance between matched hidden states, at all tokens or at the first, [CLS].

    mse: mean over the width, of the states as they are, after a LayerNorm without parameters (MobileBERT), or the
    squared distance of L2-normalised states (PKD). cosine: 1 − cos. kl: between softmaxes over the width. `embeddings`
    adds layer 0 to the map (TinyBERT).
    """

    type: Literal["hidden-states"]
    distance: Literal["mse", "cosine", "kl"] = "mse"
    normalise: Literal["none", "l2", "layer-norm"] = "none"
    tokens: Literal["all", "cls"] = "all"
    embeddings: bool = False
    projection: Literal["none", "linear", "gelu"] = "linear"
    per_layer: bool = True

    @model_validator(mode="after")
    def _normalised_mse_alone(self) -> HiddenStatesObjective:
        if self.normalise != "none" and self.distance != "mse":
            raise ValueError(f"'normalise' belongs to distance mse, not to {self.distance}; leave it out")
        return self


class AttentionScoresObjective(_MatchedObjective):
    """Mean squared error of Q·Kᵀ/√d before the softmax, head by head (TinyBERT, Jiao et al. 2020)."""

    type: Literal["attention-scores"]


class AttentionProbabilitiesObjective(_MatchedObjective):
    """KL(teacher ‖ student) of attention probabilities, head by head (SID, MobileBERT, MiniLM)."""

    type: Literal["attention-probabilities"]


class RelationsObjective(_MatchedObjective):
    """KL(teacher ‖ student) of softmax(X·Xᵀ/√d) of queries, keys, values (MiniLM, MiniLMv2, Wang et al. 2020, 2021).

    `heads` relation heads of either model's own width; by default as many as the student has.
    """

    type: Literal["relations"]
    of: tuple[Literal["query", "key", "value"], ...] = Field(default=("query", "key", "value"), min_length=1)
    heads: Positive | None = None
    map: LayerMapSpec = "last"


class EmbeddingsObjective(_Objective):
    """Distance between the word embeddings of each token, the teacher's and the student's (TinyBERT; Bui 2022)."""

    type: Literal["embeddings"]
    distance: Literal["mse", "cosine"] = "mse"
    projection: Literal["none", "linear"] = "linear"


class SentenceVectorsObjective(_Objective):
    """Mean-pooled student states against the teacher's vector of the `pivot` sentence (Reimers & Gurevych 2020).

    Reads `corpus.parallel`: every sentence that a student knows is held to the vector of the same row in `pivot`,
    which for the pivot itself is its own. mse, or contrastive with the vectors of the other rows as negatives.
    """

    type: Literal["sentence-vectors"]
    pivot: Language
    text: Name | None = None
    distance: Literal["mse", "contrastive"] = "mse"
    temperature: float = Field(default=0.05, gt=0.0)
    projection: Literal["none", "linear"] = "linear"

    @model_validator(mode="after")
    def _temperature_of_contrastive(self) -> SentenceVectorsObjective:
        if "temperature" in self.model_fields_set and self.distance != "contrastive":
            raise ValueError("'temperature' belongs to distance contrastive, not to mse; leave it out")
        return self


class AnchorsObjective(_Objective):
    """½‖e − ē‖², e a student's word embedding of a token that others of its group have too, ē the mean of them all.

    It needs no teacher. Special tokens are left out. Students of a setup that have it are one group.
    """

    type: Literal["anchors"]


#: Objectives that compare layers by a map.
MatchedObjective: TypeAlias = (
    HiddenStatesObjective | AttentionScoresObjective | AttentionProbabilitiesObjective | RelationsObjective
)

Objective: TypeAlias = Annotated[
    MaskedLMObjective
    | HardLabelsObjective
    | LogitMatchingObjective
    | SoftTargetsObjective
    | SoftmaxRegressionObjective
    | HiddenStatesObjective
    | AttentionScoresObjective
    | AttentionProbabilitiesObjective
    | RelationsObjective
    | EmbeddingsObjective
    | SentenceVectorsObjective
    | AnchorsObjective,
    Field(discriminator="type"),
]


def needs_teacher(objective: Objective) -> bool:
    """Whether a teacher has a say in it."""
    return not isinstance(objective, MaskedLMObjective | AnchorsObjective)
