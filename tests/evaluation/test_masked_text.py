"""Fixed masks: the price of unknown tokens by hand, and rows and labels carried into another vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from orchestrator.config.corpus import CorpusSection
from orchestrator.errors import DataError
from orchestrator.evaluation.masked_text import mask_texts
from orchestrator.models.tokenizers import load_tokenizer

from .tiny import SPECIAL, WORDS, sentences, write_tokenizer

CLS, SEP, MASK, UNK = 2, 3, 4, 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), WORDS["xx"])))


def section(**options: object) -> CorpusSection:
    return CorpusSection.model_validate(
        {"languages": {"xx": "any.txt"}, "max_length": 16, "masking": {"probability": 0.3}, **options}
    )


def test_the_same_texts_have_the_same_masks(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = sentences("xx", 20)
    one, two = (mask_texts(texts, tokenizer=tokenizer, section=section()) for _ in range(2))
    np.testing.assert_array_equal(one.rows.ids, two.rows.ids)
    np.testing.assert_array_equal(one.masked, two.masked)


def test_labels_are_the_words_that_stood_there(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = sentences("xx", 20)
    masked = mask_texts(texts, tokenizer=tokenizer, section=section())
    whole = [token for text in texts for token in [CLS, *(len(SPECIAL) + int(w[1:]) for w in text.split()), SEP]]
    np.testing.assert_array_equal(masked.label_ids, np.array(whole)[masked.masked])
    np.testing.assert_array_equal(masked.label_bytes, [len(f"x{label - len(SPECIAL)}") for label in masked.label_ids])
    assert (masked.num_tokens, masked.num_unknown) == (sum(len(text.split()) for text in texts), 0)
    assert masked.num_characters == sum(map(len, texts))


def test_unknown_text_is_never_masked_and_is_charged_by_its_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["x1 x2 ünknöwn x3 x4 x5", "x6 x7 [MASK] x8"]
    masked = mask_texts(texts, tokenizer=tokenizer, section=section())
    assert UNK not in masked.label_ids
    assert (masked.num_tokens, masked.num_unknown) == (10, 2)
    assert masked.unknown_bytes == len("ünknöwn".encode()) + len("[MASK]")
    characters = sum(map(len, texts))
    assert masked.bits_per_character(5.0) == pytest.approx((5.0 * 10 + 8 * masked.unknown_bytes) / characters)
    assert masked.unknown_share(0.25) == pytest.approx(0.2 + 0.8 * 0.25)


def test_a_long_text_is_several_rows_and_is_charged_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    text = " ".join(WORDS["xx"] * 3)
    masked = mask_texts([text], tokenizer=tokenizer, section=section())
    assert len(masked.rows.first) == 5  # 60 words, 14 to a row
    assert (masked.num_tokens, masked.num_characters) == (60, len(text))
    np.testing.assert_array_equal(masked.label_bytes, [len(f"x{label - len(SPECIAL)}") for label in masked.label_ids])


def test_carried_over_into_a_smaller_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    masked = mask_texts(sentences("xx", 30), tokenizer=tokenizer, section=section())
    id_map = np.full(len(tokenizer), -1, np.int32)
    id_map[:5] = [0, 7, 2, 3, 4]  # [UNK] is 7 there
    id_map[10:20] = np.arange(20, 30)
    id_map[21] = 7
    rows, labels = masked.carried_over(id_map, unk=7)
    kept = (masked.label_ids >= 10) & (masked.label_ids < 20)
    np.testing.assert_array_equal(labels.unknown.numpy(), ~kept)
    np.testing.assert_array_equal(labels.ids.numpy(), np.where(kept, masked.label_ids + 10, 7))
    missing = (id_map[masked.rows.ids] < 0) | (masked.rows.ids == 1)
    assert set(rows.ids[missing]) == {7}
    np.testing.assert_array_equal(rows.ids[~missing], id_map[masked.rows.ids][~missing])


def test_nothing_to_mask_is_said(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="finds no token to mask"):
        mask_texts(["nothing known", "here"], tokenizer=tokenizer, section=section())
