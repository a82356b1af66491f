"""Where each supported architecture keeps its parts: the one table that loading, running and building read.

Paths lead from the Hugging Face `...ForMaskedLM` module; those in `Base` lead from its encoder without head.
No torch here, so that checkpoints can be described at start-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class ConfigKeys:
    """Keys of `config.json`."""

    depth: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    intermediate: str = "intermediate_size"


@dataclass(frozen=True)
class SeparateProjections:
    """Where a layer keeps the linear maps that give queries, keys and values."""

    query: str
    key: str
    value: str


@dataclass(frozen=True)
class FusedProjection:
    """Where a layer keeps one linear map for all three; `attention` then rotates queries and keys by position."""

    attention: str
    projection: str


Projections: TypeAlias = SeparateProjections | FusedProjection


@dataclass(frozen=True)
class Base:
    """Parts of the encoder without head; None where an architecture has no such part."""

    layers: str
    projections: Projections
    word_embeddings: str
    embedding_norm: str
    position_embeddings: str | None = None
    token_type_embeddings: str | None = None
    final_norm: str | None = None
    #: RoBERTa counts positions from pad id + 1.
    positions_follow_pad: bool = False


@dataclass(frozen=True)
class Head:
    """Parts of the masked-language-model head, in the order in which they run."""

    dense: str
    activation: str | None  # None: the function gelu, which is no module
    norm: str
    decoder: str


@dataclass(frozen=True)
class Architecture:
    """One architecture of masked-language-model encoders."""

    base_path: str
    base: Base
    head: Head
    config: ConfigKeys = ConfigKeys()
    #: Prefix of a layer's weight -> its name in a BERT layer, so that layers can be copied between the two.
    layer_names: Mapping[str, str] = field(default_factory=dict)
    #: Prefix of the layer weights that the first layer lacks.
    absent_in_first_layer: str | None = None


_BERT_BASE = Base(
    layers="encoder.layer",
    projections=SeparateProjections("attention.self.query", "attention.self.key", "attention.self.value"),
    word_embeddings="embeddings.word_embeddings",
    embedding_norm="embeddings.LayerNorm",
    position_embeddings="embeddings.position_embeddings",
    token_type_embeddings="embeddings.token_type_embeddings",
)

_BERT = Architecture(
    base_path="bert",
    base=_BERT_BASE,
    head=Head(
        dense="cls.predictions.transform.dense",
        activation="cls.predictions.transform.transform_act_fn",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
    ),
)

_ROBERTA = Architecture(
    base_path="roberta",
    base=Base(
        layers=_BERT_BASE.layers,
        projections=_BERT_BASE.projections,
        word_embeddings=_BERT_BASE.word_embeddings,
        embedding_norm=_BERT_BASE.embedding_norm,
        position_embeddings=_BERT_BASE.position_embeddings,
        token_type_embeddings=_BERT_BASE.token_type_embeddings,
        positions_follow_pad=True,
    ),
    head=Head(dense="lm_head.dense", activation=None, norm="lm_head.layer_norm", decoder="lm_head.decoder"),
)

_DISTILBERT = Architecture(
    base_path="distilbert",
    base=Base(
        layers="transformer.layer",
        projections=SeparateProjections("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        word_embeddings=_BERT_BASE.word_embeddings,
        embedding_norm=_BERT_BASE.embedding_norm,
        position_embeddings=_BERT_BASE.position_embeddings,
    ),
    head=Head(dense="vocab_transform", activation="activation", norm="vocab_layer_norm", decoder="vocab_projector"),
    config=ConfigKeys(depth="n_layers", width="dim", heads="n_heads", intermediate="hidden_dim"),
    layer_names={
        "attention.q_lin.": "attention.self.query.",
        "attention.k_lin.": "attention.self.key.",
        "attention.v_lin.": "attention.self.value.",
        "attention.out_lin.": "attention.output.dense.",
        "sa_layer_norm.": "attention.output.LayerNorm.",
        "ffn.lin1.": "intermediate.dense.",
        "ffn.lin2.": "output.dense.",
        "output_layer_norm.": "output.LayerNorm.",
    },
)

_ELECTRA = Architecture(
    base_path="electra",
    base=_BERT_BASE,
    head=Head(
        dense="generator_predictions.dense",
        activation="generator_predictions.activation",
        norm="generator_predictions.LayerNorm",
        decoder="generator_lm_head",
    ),
)

_MODERNBERT = Architecture(
    base_path="model",
    base=Base(
        layers="layers",
        projections=FusedProjection("attn", "attn.Wqkv"),
        word_embeddings="embeddings.tok_embeddings",
        embedding_norm="embeddings.norm",
        final_norm="final_norm",
    ),
    head=Head(dense="head.dense", activation="head.act", norm="head.norm", decoder="decoder"),
    absent_in_first_layer="attn_norm.",
)

#: `model_type` of config.json -> its architecture.
ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": _BERT,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "electra": _ELECTRA,
    "modernbert": _MODERNBERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
