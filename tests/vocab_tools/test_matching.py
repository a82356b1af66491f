"""Tokens of a vocabulary found again in tokenizers that had no part in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.vocab_tools.tiny import FAMILIES, make_tokenizer
from vocab_tools.build import VocabularySource, build_vocabulary
from vocab_tools.mapping import Vocabulary, open_vocabulary
from vocab_tools.matching import match_tokens
from vocab_tools.read import read_tokenizer


def vocabulary_of(folder: Path, *tokenizers: Path) -> Vocabulary:
    build_vocabulary([VocabularySource(path.name, path) for path in tokenizers], folder)
    return open_vocabulary(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_is_found_again_as_it_was_mapped(family: str, tmp_path: Path) -> None:
    """By another name, so that it cannot be known: all but the tokens that belong to one vocabulary alone."""
    known = make_tokenizer(family, tmp_path / "known")
    vocabulary = vocabulary_of(tmp_path / "vocabulary", known)
    table = match_tokens(read_tokenizer(known, name="stranger"), vocabulary)
    expected = vocabulary.map("known")
    differing = table != expected
    assert bool((table[differing] == -1).all())
    assert differing.mean() < 0.05
    roles = read_tokenizer(known).roles
    assert {role: int(table[index]) for role, index in roles.items()} == {r: vocabulary.special[r] for r in roles}


def test_families_meet_in_the_tokens_that_mean_the_same(tmp_path: Path) -> None:
    one, two = (make_tokenizer(family, tmp_path / family) for family in ("wordpiece-cased", "unigram"))
    alone = vocabulary_of(tmp_path / "alone", one)
    both = vocabulary_of(tmp_path / "both", one, two)
    table = match_tokens(read_tokenizer(two), alone)
    names = [both.tokens[index] for index in both.map("unigram")]
    found = [alone.tokens[index] if index >= 0 else None for index in table]
    shared = set(both.map("unigram").tolist()) & set(both.map("wordpiece-cased").tolist())
    assert {name for name in found if name is not None} == {both.tokens[index] for index in shared}
    assert all(name in (None, expected) for name, expected in zip(found, names, strict=True))


def test_a_student_is_found_in_its_own_tokenizer(tmp_path: Path) -> None:
    """What is exported of a vocabulary is a tokenizer of its very ids."""
    known = make_tokenizer("unigram", tmp_path / "known")
    vocabulary = vocabulary_of(tmp_path / "vocabulary", known)
    own = match_tokens(read_tokenizer(vocabulary.tokenizer_folder("known")), vocabulary)
    ids = np.flatnonzero(own >= 0)
    np.testing.assert_array_equal(own[ids], ids)
    assert len(ids) >= 0.95 * vocabulary.size
