"""The stated rules of canonical tokens, one example or more for each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from vocab_tools.canonical import CanonicalToken, Marks, canonical_text, canonical_tokens, display, find_roles
from vocab_tools.specs import byte_alphabet

SPELLED = [
    # what it is, WordPiece, SentencePiece, byte-level
    (("the", True), "the", "▁the", "Ġthe"),
    (("ing", False), "##ing", "ing", "ing"),
    (("café", True), "café", "▁café", "ĠcafÃ©"),
    (("7", True), "7", "▁7", "Ġ7"),
    (("98", False), "##98", "98", "98"),
    (("😀", True), "😀", "▁😀", "ĠðŁĺĢ"),
    (("ไทย", True), "ไทย", "▁ไทย", "Ġà¹Ħà¸Ĺà¸¢"),
    (("한국", True), "한국", "▁한국", "ĠíķľêµŃ"),
    ((",", False), ",", ",", ","),
    (("«", False), "«", "«", "Â«"),
    (("中", False), "中", "中", "ä¸Ń"),
    (("の", False), "の", "の", "ãģ®"),
    (("\u0301", False), "##\u0301", "\u0301", "Ìģ"),
]


@pytest.mark.parametrize(("meaning", "wordpiece", "sentencepiece", "byte_level"), SPELLED)
def test_one_token_in_three_spellings(
    meaning: tuple[str, bool], wordpiece: str, sentencepiece: str, byte_level: str
) -> None:
    expected = CanonicalToken(*meaning)
    assert canonical_text(wordpiece, marks="wordpiece") == expected
    assert canonical_text(sentencepiece, marks="metaspace") == expected
    assert canonical_text(byte_level, marks="byte-level") == expected


def test_a_space_inside_a_piece_is_a_space_and_a_lone_mark_is_the_beginning_of_a_word() -> None:
    assert canonical_text("▁New▁York", marks="metaspace") == CanonicalToken("New York", True)
    assert canonical_text("▁▁", marks="metaspace") == canonical_text("ĠĠ", marks="byte-level") == (" ", True, "")
    assert canonical_text("▁", marks="metaspace") == canonical_text("Ġ", marks="byte-level") == ("", True, "")


def test_marked_ideographs_stay_apart_from_unmarked_ones() -> None:
    assert canonical_text("▁中", marks="metaspace") == CanonicalToken("中", True)
    assert canonical_text("中", marks="metaspace") == CanonicalToken("中", False)


def test_bytes_that_are_no_text_stay_bytes_and_meet_byte_fallback() -> None:
    assert canonical_text("ä¸", marks="byte-level").text == b"\xe4\xb8"
    lead = canonical_text("<0xE4>", marks="metaspace", byte_fallback=True)
    assert lead == canonical_text("ä", marks="byte-level") == CanonicalToken(b"\xe4", False)
    assert canonical_text("<0x41>", marks="metaspace", byte_fallback=True).text == b"A"
    assert canonical_text("A", marks="byte-level").text == "A"
    assert canonical_text("<0xE4>", marks="metaspace").text == "<0xE4>"


def test_composition_is_normalised_and_case_and_accents_are_not() -> None:
    forms = {
        canonical_text(spelling, marks="metaspace") for spelling in ("▁caf\u00e9", "▁cafe\u0301", "▁cafe", "▁Café")
    }
    assert len(forms) == 3


@given(st.text(min_size=1), st.booleans())
def test_byte_level_pieces_of_any_text_mean_that_text(text: str, begins: bool) -> None:
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    piece = "".join(alphabet[byte] for byte in (" " * begins + text).encode())
    found = canonical_text(piece, marks="byte-level")
    if not begins and text.startswith(" "):
        begins, text = True, text[1:]
    assert found == canonical_text(("▁" if begins else "") + text.replace(" ", "▁"), marks="metaspace") or "▁" in text


def test_the_byte_alphabet_is_that_of_tokenizers() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@given(
    st.lists(st.one_of(st.text(max_size=3), st.text("a#▁ĠÃ,中", max_size=4)), unique=True, max_size=40),
    st.sampled_from(["wordpiece", "metaspace", "byte-level", "none"]),
)
def test_no_two_ids_of_one_vocabulary_ever_merge(tokens: list[str], marks: Marks) -> None:
    for merge in ("canonical", "surface"):
        identities = canonical_tokens(tokens, owner="one", marks=marks, roles={}, reserved=[], merge=merge)
        assert len(set(identities)) == len(tokens)


def test_the_plainer_of_two_pieces_is_the_token() -> None:
    first, second = canonical_tokens(["##,", ","], owner="one", marks="wordpiece", roles={}, reserved=[])
    assert second == CanonicalToken(",", False)
    assert first is not None
    assert first.owner == "wordpiece"
    other = canonical_tokens([",", "x", "##,"], owner="two", marks="wordpiece", roles={}, reserved=[])
    assert other[2] == first


def test_reserved_tokens_keep_to_themselves_and_special_ones_meet_by_role() -> None:
    tokens = ["[PAD]", "[unused1]", "word"]
    one = canonical_tokens(tokens, owner="one", marks="wordpiece", roles={"pad": 0}, reserved=[1])
    two = canonical_tokens(["<pad>", *tokens[1:]], owner="two", marks="wordpiece", roles={"pad": 0}, reserved=[1])
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, False, True]


def test_roles_come_from_the_model_then_the_declaration_then_the_usual_names() -> None:
    index = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<cls>": 4, "<mask>": 5, "!": 6}
    assert find_roles(index, declared={}, unknown=3) == {"pad": 1, "unk": 3, "cls": 4, "sep": 2, "mask": 5}
    assert find_roles(index, declared={"cls_token": "<s>", "mask_token": "!"}, unknown=6)["cls"] == 0
    assert find_roles(index, declared={"cls_token": "<s>", "mask_token": "!"}, unknown=3)["mask"] == 6
    assert find_roles({"<|endoftext|>": 9}, declared={"unk_token": "<|endoftext|>"}, unknown=None) == {"sep": 9}


def test_display_writes_words_bytes_and_special_tokens() -> None:
    shown = [display(CanonicalToken(*parts)) for parts in (("the", True), ("ing", False), (b"\xe4\xb8", False))]
    assert shown == ["▁the", "ing", "<0xE4><0xB8>"]
    assert display(CanonicalToken("[MASK]", False, "role")) == "[MASK]"
