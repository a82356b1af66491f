"""Small models with random weights, a tokenizer of words, and text in two made-up languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = {"xx": [f"x{number}" for number in range(20)], "yy": [f"y{number}" for number in range(20)]}


def sentences(language: str, count: int, *, seed: int = 0) -> list[str]:
    """Distinct sentences of 3 to 12 words; sentence i of every language has the same length and word numbers."""
    random = np.random.default_rng(seed)
    drawn = [random.integers(20, size=random.integers(3, 13)) for _ in range(count)]
    return [" ".join(WORDS[language][number] for number in sentence) for sentence in drawn]


def write_tokenizer(folder: Path, words: list[str]) -> Path:
    """A fast tokenizer whose ids are the special tokens and then `words`."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    tokenizer.save_pretrained(folder)
    return folder


def write_model(folder: Path, *, vocab_size: int, layers: int = 2, width: int = 16, seed: int = 0) -> Path:
    """A BERT with a masked-LM head whose random weights are large enough to have opinions."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForMaskedLM(config).eval()
    model.save_pretrained(folder)
    return folder


def write_pair(folder: Path, words: list[str], *, layers: int = 2, width: int = 16, seed: int = 0) -> Path:
    """Model and tokenizer in one folder."""
    write_model(folder, vocab_size=len(SPECIAL) + len(words), layers=layers, width=width, seed=seed)
    return write_tokenizer(folder, words)
