"""Build a student from its template, as an ordinary Hugging Face masked language model."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from orchestrator.config.models import StudentTemplate
from orchestrator.models.encoder import Encoder
from orchestrator.records import SpecialIds


def build_encoder(template: StudentTemplate, *, vocab_size: int, special: SpecialIds, seed: int) -> Encoder:
    """A new student with random weights, float32, in training mode.

    The weights depend on `seed` and the template alone; the global random state is left as it was.

    Args:
        template: architecture, sizes and dropout.
        vocab_size: rows of the embedding matrix.
        special: ids of the special tokens of the student's vocabulary.
        seed: of the weights.
    """
    config = _config(template, vocab_size, special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    encoder = Encoder(model)
    encoder.train()
    return encoder


def _config(template: StudentTemplate, vocab_size: int, special: SpecialIds) -> PretrainedConfig:
    vocabulary = {
        "vocab_size": vocab_size,
        "pad_token_id": special.pad,
        "bos_token_id": special.cls,
        "eos_token_id": special.sep,
        "tie_word_embeddings": template.tie_head,
    }
    sizes = {
        "hidden_size": template.hidden_size,
        "num_hidden_layers": template.layers,
        "num_attention_heads": template.heads,
        "intermediate_size": template.feed_forward_size,
        "max_position_embeddings": template.max_positions,
        "hidden_dropout_prob": template.dropout,
        "attention_probs_dropout_prob": template.dropout,
    }
    match template.architecture:
        case "bert":
            return BertConfig(**vocabulary, **sizes)
        case "roberta":
            # RoBERTa counts positions from pad id + 1, and has one token type.
            sizes["max_position_embeddings"] = template.max_positions + special.pad + 1
            return RobertaConfig(**vocabulary, **sizes, type_vocab_size=1)
        case "electra":
            return ElectraConfig(**vocabulary, **sizes, embedding_size=template.hidden_size)
        case "distilbert":
            return DistilBertConfig(
                **vocabulary,
                dim=template.hidden_size,
                n_layers=template.layers,
                n_heads=template.heads,
                hidden_dim=template.feed_forward_size,
                max_position_embeddings=template.max_positions,
                dropout=template.dropout,
                attention_dropout=template.dropout,
            )
        case "modernbert":
            return ModernBertConfig(
                **vocabulary,
                hidden_size=template.hidden_size,
                num_hidden_layers=template.layers,
                num_attention_heads=template.heads,
                intermediate_size=template.feed_forward_size,
                max_position_embeddings=template.max_positions,
                embedding_dropout=template.dropout,
                attention_dropout=template.dropout,
                mlp_dropout=template.dropout,
                cls_token_id=special.cls,
                sep_token_id=special.sep,
            )
