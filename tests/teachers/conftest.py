"""A tiny run: text of two languages, a word tokenizer, and a random teacher that knows its words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from orchestrator.config.corpus import CorpusSection
from orchestrator.config.models import TeacherSection
from orchestrator.corpus.store import Corpus, build_corpus
from orchestrator.models.building import build_encoder
from orchestrator.models.export import export_student
from orchestrator.records import SpecialIds
from tests.models.tiny import template

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = [f"w{i}" for i in range(60)]
LANGUAGES = ("en", "sw")


@dataclass(frozen=True)
class TinyRun:
    """Inputs of a teacher pass."""

    root: Path
    corpus: Corpus
    corpus_section: CorpusSection
    teacher: TeacherSection


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    root = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    for language, count in zip(LANGUAGES, (120, 40), strict=True):
        lines = (" ".join(generator.choice(WORDS, generator.integers(3, 20))) for _ in range(count))
        (root / f"{language}.txt").write_text("\n".join(lines) + "\n")
    section = CorpusSection.model_validate(
        {
            "languages": {language: str(root / f"{language}.txt") for language in LANGUAGES},
            "held_out_share": 0.1,
            "max_length": 24,
            "packing": False,
            "masking": {"copies": 2},
        }
    )
    return TinyRun(root, build_corpus(section, root=root, seed=0), section, _make_teacher(root / "teacher"))


def _make_teacher(folder: Path) -> TeacherSection:
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL_TOKENS + WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(folder)
    special = SpecialIds(pad=1, unk=3, mask=4, cls=0, sep=2)
    # three rows more than the tokenizer knows, as padded checkpoints have
    encoder = build_encoder(template("bert"), vocab_size=len(SPECIAL_TOKENS + WORDS) + 3, special=special, seed=0)
    export_student(encoder, folder)
    return TeacherSection(languages=LANGUAGES, model=str(folder), dtype="float32", tokens_per_batch=64)
