"""The merged tokenizer emits student ids for any text, and its distance from the routed ones is measured rightly."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.vocab_tools.tiny import SENTENCES, count_ids, make_tokenizer
from vocab_tools import VocabularyError, VocabularySource, build_vocabulary, open_vocabulary
from vocab_tools.measure import disagreement
from vocab_tools.report import read_report

UNIONS = {
    "mixed": ("wordpiece-uncased", "unigram-bytes", "byte-bpe"),
    "wordpiece": ("wordpiece-cased", "wordpiece-uncased"),
}


def make_union(kind: str, root: Path, **options: object) -> Path:
    sources = []
    for number, family in enumerate(UNIONS[kind]):
        path = make_tokenizer(family, root / family)
        counts = count_ids(path, SENTENCES) if options.get("counted") else None
        sources.append(VocabularySource(family, path, counts, tokenizer_names=(f"l{number}",)))
    merge = "surface" if options.get("surface") else "canonical"
    texts = {f"l{number}": SENTENCES[number::3] for number in range(len(sources))}
    build_vocabulary(sources, root / "out", merge=merge, texts=texts)  # type: ignore[arg-type]
    return root / "out"


@pytest.mark.parametrize("kind", UNIONS)
@pytest.mark.parametrize("options", [{}, {"counted": True}, {"surface": True}])
def test_merged_tokenizer_covers_the_text_and_is_measured(tmp_path: Path, kind: str, options: dict[str, bool]) -> None:
    folder = make_union(kind, tmp_path, **options)
    vocabulary = open_vocabulary(folder)
    merged = AutoTokenizer.from_pretrained(vocabulary.tokenizer_folder("merged"))
    assert len(merged) == vocabulary.size
    assert [getattr(merged, f"{role}_token_id") for role in vocabulary.special] == [0, 1, 2, 3, 4]
    encoded = merged(SENTENCES[1])
    assert (encoded.input_ids[0], encoded.input_ids[-1]) == (2, 3)
    unknown = np.mean([index == 1 for text in SENTENCES for index in merged(text).input_ids])
    assert unknown < 0.1
    measures = read_report(folder).texts
    assert [one.language for one in measures] == [f"l{number}" for number in range(len(UNIONS[kind]))]
    for one in measures:
        assert one.merged_disagreement is not None
        assert 0.0 <= one.merged_disagreement < 0.9
        assert one.outside_text == 0.0


def test_merged_ids_mean_the_text(tmp_path: Path) -> None:
    vocabulary = open_vocabulary(make_union("mixed", tmp_path, counted=True))
    merged = tokenizers.Tokenizer.from_file(str(vocabulary.tokenizer_folder("merged") / "tokenizer.json"))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from(" ".join(SENTENCES).split()), max_size=6).map(" ".join))
    def holds(text: str) -> None:
        tokens = [vocabulary.tokens[index] for index in merged.encode(text, add_special_tokens=False).ids]
        assert "[UNK]" not in tokens
        assert "".join(tokens).replace("▁", " ").strip() == unicodedata.normalize("NFKC", " ".join(text.split()))

    holds()


def test_disagreement_counts_missing_tokens() -> None:
    def words(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="?"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        return tokenizer

    routed = words({"?": 0, "ab": 1, "a": 2, "##b": 3, "c": 4})
    merged = words({"?": 0, "a": 2, "##b": 3, "c": 4})
    assert disagreement(["ab c"], routed, routed) == 0.0
    assert disagreement(["ab c", "c"], routed, merged) == pytest.approx(1 / 3)
    assert disagreement([], routed, merged) == 0.0


def test_texts_need_a_tokenizer_of_their_name(tmp_path: Path) -> None:
    path = make_tokenizer("unigram", tmp_path / "t")
    with pytest.raises(VocabularyError, match="texts of 'de'"):
        build_vocabulary([VocabularySource("t", path)], tmp_path / "out", texts={"de": ["x"]})
