"""The configurations for public models, with all real but the weights: real tokenizers, the checkpoints' own layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from orchestrator.config.loading import load_config
from orchestrator.pipeline import driving, lazy_cluster, run_all
from orchestrator.resources import configs_folder
from orchestrator.run import make_run

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
TOKENIZERS = SHARED / "data" / "tokenizers"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not TOKENIZERS.is_dir(), reason="the tokenizers beside the project are not there"),
]
SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


def bert(folder: Path, *, tokenizer: str, size: int) -> Path:
    """A random BERT of mBERT's shape, only narrower, with its real WordPiece vocabulary."""
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=size, **SMALL)).save_pretrained(folder)
    shutil.copy(TOKENIZERS / tokenizer / "vocab.txt", folder / "vocab.txt")
    return folder


def xlmr(folder: Path) -> Path:
    """A random XLM-R with its padded positions and its real SentencePiece model."""
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, **SMALL)
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    shutil.copy(TOKENIZERS / "xlm-roberta-base" / "sentencepiece.bpe.model", folder / "sentencepiece.bpe.model")
    return folder


def text(folder: Path, language: str) -> str:
    """Some lines of a language; Turkish and Swahili stand in Finnish clothes, only the tokenizer reads them."""
    source = configs_folder() / "demo" / "text" / f"{language if language in ('en', 'de') else 'fi'}.txt"
    path = folder / f"{language}.txt"
    path.write_text("\n".join(source.read_text(encoding="utf-8").splitlines()[:60]), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["mbert-one-to-one", "xlmr-one-to-many", "german-many-to-one"])
def test_runs_to_its_end(name: str, tmp_path: Path) -> None:
    path = configs_folder() / "public" / f"{name}.yaml"
    config = load_config(path)
    models = {
        "mbert": lambda: bert(tmp_path / "mbert", tokenizer="bert-base-multilingual-cased", size=119_547),
        "german": lambda: bert(tmp_path / "german", tokenizer="bertino-italian", size=31_102),
        "xlmr": lambda: xlmr(tmp_path / "xlmr"),
    }
    overrides = [
        f"run.root={tmp_path / 'run'}",
        "student.layers=2",
        "student.hidden_size=32",
        "student.heads=2",
        "student.intermediate_size=64",
        "training.steps=2",
        "training.tokens_per_batch=256",
        "training.baseline=false",
        "corpus.held_out_share=0.2",
    ]
    overrides += [f"corpus.languages.{lang}={text(tmp_path, lang)}" for lang in config.corpus.languages]
    for teacher in config.teachers:
        overrides += [f"teachers.{teacher}.model={models[teacher]()}", f"teachers.{teacher}.revision=null"]
        overrides.append(f"teachers.{teacher}.tokens_per_batch=512")
    run = make_run(load_config(path, overrides=overrides), address="in-process")
    with driving(run), lazy_cluster(run) as cluster:
        page = run_all(run, cluster)
    assert page.is_file()
    for student in run.expanded.students:
        folder = run.students_folder / student.name / "final"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForMaskedLM.from_pretrained(folder).eval()
        logits = model(**tokenizer("In the beginning", return_tensors="pt")).logits
        assert logits.shape[-1] == len(tokenizer)
        assert torch.isfinite(logits).all()
