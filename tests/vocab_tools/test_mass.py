"""The mass that a teacher loses outside a vocabulary, against the same model asked directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from tests.vocab_tools.tiny import SENTENCES, count_ids, make_tokenizer
from vocab_tools import VocabularyError, VocabularySource, build_vocabulary, open_vocabulary
from vocab_tools.mass import has_model, teacher_mass_outside
from vocab_tools.read import read_tokenizer


def make_model(folder: Path, *, rows: int, tilt: float) -> None:
    """A BERT with random weights whose head prefers small ids the more, the greater `tilt`."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.cls.predictions.bias.copy_(-tilt * torch.arange(rows))
    model.save_pretrained(folder)


@pytest.mark.parametrize("padding", [0, 6])
def test_mass_is_that_of_the_models_own_distribution(tmp_path: Path, padding: int) -> None:
    folder = make_tokenizer("wordpiece-cased", tmp_path / "t")
    teacher = read_tokenizer(folder)
    make_model(folder, rows=len(teacher.tokens) + padding, tilt=2.0)
    teacher = read_tokenizer(folder)
    assert has_model(folder)
    table = np.arange(len(teacher.tokens), dtype=np.int32)
    assert teacher_mass_outside(folder, teacher, SENTENCES, table) == pytest.approx(0.0, abs=1e-6)
    bias = np.exp(-2.0 * np.arange(len(table)))
    table[1] = -1
    found = teacher_mass_outside(folder, teacher, SENTENCES, table)
    assert found == pytest.approx(bias[1] / bias.sum(), abs=0.03)  # the bias drowns the random weights
    assert teacher_mass_outside(folder, teacher, SENTENCES, np.full_like(table, -1)) == pytest.approx(1.0)


def test_trim_reports_the_mass_by_language(tmp_path: Path) -> None:
    folder = make_tokenizer("wordpiece-cased", tmp_path / "t")
    make_model(folder, rows=len(read_tokenizer(folder).tokens), tilt=0.0)
    source = VocabularySource("t", folder, count_ids(folder, SENTENCES[:1]), tokenizer_names=("en", "de"))
    texts = {"en": SENTENCES[:2], "de": SENTENCES[2:3]}
    report = build_vocabulary([source], tmp_path / "out", texts=texts, teacher_mass=True)
    dropped = float((open_vocabulary(tmp_path / "out").map("t") < 0).mean())
    for one in report.texts:
        assert one.outside_teacher == pytest.approx(dropped, abs=0.1)  # a flat distribution over all ids
        assert one.merged_disagreement is None
    assert [one.outside_text > 0 for one in report.texts] == [True, True]


def test_a_teacher_without_mask_cannot_be_asked(tmp_path: Path) -> None:
    folder = make_tokenizer("spm-unigram", tmp_path / "t")
    with pytest.raises(VocabularyError, match="no mask token"):
        teacher_mass_outside(folder, read_tokenizer(folder), SENTENCES, np.zeros(5, dtype=np.int32))
