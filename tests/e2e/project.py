"""A tiny project as a user has one: text in three languages, two random teachers with tokenizers, and an orch.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM

SHIPPED_TEXT = Path(__file__).resolve().parents[2] / "configs" / "demo" / "text"
LANGUAGES = ("en", "de", "fi")
NUM_TEXTS = 90
NUM_HELD_OUT = 20

CONFIG: dict[str, object] = {
    "run": {"root": "run", "seed": 1, "setup": "one-to-one", "teacher": "multilingual"},
    "corpus": {
        "max_length": 48,
        "languages": {
            language: {
                "train": {"files": f"text/{language}.txt"},
                "held_out": {"files": "text/held_out.jsonl", "column": language},
            }
            for language in LANGUAGES
        },
    },
    "teachers": {
        "multilingual": {
            "model": "teachers/multilingual",
            "languages": [*LANGUAGES],
            "dtype": "float32",
            "tokens_per_batch": 256,
        },
        "english": {"model": "teachers/english", "languages": ["en"], "dtype": "float32", "tokens_per_batch": 256},
    },
    "routes": {"en": "english"},
    "student": {
        "layers": 1,
        "hidden_size": 32,
        "heads": 2,
        "initialisation": {"layers": "teacher", "teacher": "multilingual"},
    },
    "share": {"parts": ["embedding"], "projections": True},
    "objectives": [
        {"type": "soft-targets", "k": 8},
        {"type": "masked-lm"},
        {"type": "hidden-states", "distance": "cosine", "map": "last"},
    ],
    "training": {"steps": 6, "tokens_per_batch": 256, "log_every": 2, "learning_rate": 1e-3},
    "evaluation": {
        "max_texts": 10,
        "parallel": [
            {
                "name": "bible",
                "files": "text/held_out.jsonl",
                "columns": dict(zip(LANGUAGES, LANGUAGES, strict=True)),
                "max_pairs": 10,
            }
        ],
    },
}


def make_project(folder: Path) -> Path:
    """Write the project into `folder`; returns its orch.yaml, whose paths are relative to `folder`."""
    (folder / "text").mkdir(parents=True)
    for language in LANGUAGES:
        lines = (SHIPPED_TEXT / f"{language}.txt").read_text(encoding="utf-8").splitlines()[:NUM_TEXTS]
        (folder / "text" / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    pairs = (SHIPPED_TEXT / "held_out.jsonl").read_text(encoding="utf-8").splitlines()[:NUM_HELD_OUT]
    (folder / "text" / "held_out.jsonl").write_text("\n".join(pairs), encoding="utf-8")
    texts = [str(folder / "text" / f"{language}.txt") for language in LANGUAGES]
    write_teacher(folder / "teachers" / "multilingual", unigram(texts, size=500), layers=2, seed=1)
    write_teacher(folder / "teachers" / "english", word_pieces(texts[:1], size=300), layers=2, seed=2)
    return write_config(folder, {})


def write_config(folder: Path, changes: Mapping[str, object], *, name: str = "orch.yaml") -> Path:
    """`CONFIG` with some sections replaced."""
    path = folder / name
    path.write_text(yaml.safe_dump(CONFIG | dict(changes), sort_keys=False), encoding="utf-8")
    return path


def assert_same_students(expected: Path, found: Path, *, count: int) -> None:
    """The `count` students of two projects have the same weights but for the rounding of sums."""
    paths = sorted((expected / "run").glob("students/*/*/final/model.safetensors"))
    assert len(paths) == count
    for path in paths:
        weights, others = load_file(path), load_file(found / path.relative_to(expected))
        assert weights.keys() == others.keys()
        for name, tensor in weights.items():
            if name.endswith("key.bias"):  # a softmax is blind to it: its gradient is rounding, which AdamW makes large
                continue
            torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-5)


def unigram(files: list[str], *, size: int) -> tuple[Tokenizer, dict[str, str]]:
    """SentencePiece's kind, and its special tokens by role."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    tokenizer.train(
        files,
        trainers.UnigramTrainer(
            vocab_size=size, special_tokens=list(special.values()), unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer, special


def word_pieces(files: list[str], *, size: int) -> tuple[Tokenizer, dict[str, str]]:
    """BERT's kind, and its special tokens by role."""
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train(files, vocab_size=size, show_progress=False)
    special = {"cls": "[CLS]", "pad": "[PAD]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
    return Tokenizer.from_str(trained.to_str()), special


def write_teacher(folder: Path, tokenizer: tuple[Tokenizer, dict[str, str]], *, layers: int, seed: int) -> Path:
    """A BERT with random weights, width 32, and the tokenizer beside it."""
    made, special = tokenizer
    config = BertConfig(
        vocab_size=made.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        pad_token_id=made.token_to_id(special["pad"]),
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertForMaskedLM(config).save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    roles = {f"{role}_token": token for role, token in special.items()}
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    return folder
