"""One tokenizer over a whole union, for text whose language nobody knows.

V student ids, V_t ids of one teacher.

No single algorithm cuts as several teachers do; how far this one is from them is measured (measure.py) and reported.
Where all teachers are WordPiece it is WordPiece, the longest match over the union. Else it is a unigram over the
canonical tokens: the probability of a token is the mean over the teachers of its own unigram probability, or for the
other families of its share of the teacher's corpus, or without a corpus of 1 / rank (merges and vocabularies are
roughly ordered by frequency). The longest match over a mixed union is far worse: it takes foreign pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vocab_tools.canonical import ROLES, CanonicalToken, display, is_cut_off, role_name
from vocab_tools.files import JSON
from vocab_tools.read import TeacherTokenizer
from vocab_tools.specs import METASPACE, Component, added_token, byte_pieces, components, template
from vocab_tools.tokenizers import dump
from vocab_tools.union import Int32, Union

Float64 = npt.NDArray[np.float64]
_SMOOTHING = 0.1  # occurrences that every kept token is given beside those counted
_PREFIX = "##"


def merged_document(
    union: Union,
    teachers: Mapping[str, TeacherTokenizer],
    counts: Mapping[str, npt.NDArray[np.int64]],
    *,
    surface: bool,
) -> bytes:
    """The tokenizer.json of the merged tokenizer; `counts` int64 [V_t] of those teachers that have a corpus.

    `surface`: the union was made of tokens as they are spelled, so they are spelled so here.
    """
    ordered = [teachers[name] for name in sorted(teachers)]
    special = {role_name(role): index for index, role in enumerate(ROLES)}
    document: Component = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(index, token) for token, index in special.items()],
        "post_processor": template(special, "[CLS]", "[SEP]", second_type=0),
    }
    if all(teacher.marks == "wordpiece" and teacher.family == "wordpiece" for teacher in ordered):
        document |= _wordpiece(union, ordered, surface=surface)
    else:
        document |= _unigram(union, ordered, _probabilities(union, teachers, counts))
    return dump(document)


def merged_config() -> dict[str, JSON]:
    """The tokenizer_config.json beside it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": role_name(role) for role in ROLES},
    }


def _wordpiece(union: Union, teachers: Sequence[TeacherTokenizer], *, surface: bool) -> Component:
    first = teachers[0].spec
    alike = all(teacher.spec["normalizer"] == first["normalizer"] for teacher in teachers)
    normalizer: Component = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": False,
    }
    vocab: dict[str, int] = {}
    for index, (token, name) in enumerate(zip(union.tokens, union.names, strict=True)):
        piece = name if surface else _as_wordpiece(token)
        vocab[f" {name}" if piece in vocab else piece] = index
    return {
        "normalizer": first["normalizer"] if alike else normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": _PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": role_name("unk"),
            "continuing_subword_prefix": _PREFIX,
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def _as_wordpiece(token: CanonicalToken) -> str:
    text = display(token) if isinstance(token.text, bytes) else token.text
    plain = token.owner or token.begins_word or is_cut_off(text)
    return text if plain else _PREFIX + text


def _unigram(union: Union, teachers: Sequence[TeacherTokenizer], probabilities: Float64) -> Component:
    steps = [stage.get("type") for teacher in teachers for stage in components(teacher.spec["normalizer"])]
    form = "NFKC" if {"Precompiled", "NFKC", "NFKD"} & set(steps) else "NFC"
    scores = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    ordinary = probabilities > 0
    lowest = float(scores[ordinary].min()) if ordinary.any() else 0.0
    vocab: list[tuple[str, float]] = []
    for token, name, score in zip(union.tokens, union.names, scores.tolist(), strict=True):
        matches = token.owner == "role" or _matches(token, name)
        vocab.append((name if matches else f" {name}", max(score, lowest)))
    metaspace: Component = {"type": "Metaspace", "replacement": METASPACE, "prepend_scheme": "always", "split": True}
    high_bytes = [piece for piece, byte in byte_pieces().items() if 0x80 <= byte <= 0xBF]
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": form},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
            ],
        },
        "pre_tokenizer": metaspace,
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": ROLES.index("unk"),
            "byte_fallback": set(high_bytes) <= set(union.names),
            "vocab": vocab,
        },
    }


def _matches(token: CanonicalToken, name: str) -> bool:
    """Whether a token can stand for text in the merged unigram: text of its own name, or one byte."""
    if isinstance(token.text, bytes):
        return len(token.text) == 1 and name == display(token)
    return not token.owner and name == display(token) and " " not in token.text


def _probabilities(
    union: Union, teachers: Mapping[str, TeacherTokenizer], counts: Mapping[str, npt.NDArray[np.int64]]
) -> Float64:
    """Share of each student token, mean over teachers, float64 [V]; 0 for the special tokens."""
    total = np.zeros(len(union.tokens))
    for name, table in union.maps.items():
        weights = _weights(teachers[name], table, counts.get(name))
        weights[table < len(ROLES)] = 0.0
        if weights.sum() > 0:
            np.add.at(total, table[weights > 0], weights[weights > 0] / (weights.sum() * len(union.maps)))
    return total


def _weights(teacher: TeacherTokenizer, table: Int32, counts: npt.NDArray[np.int64] | None) -> Float64:
    vocab = teacher.spec["model"]["vocab"]
    weights = np.zeros(len(table), dtype=np.float64)
    if isinstance(vocab, list):
        weights[: len(vocab)] = np.exp([score for _, score in vocab])
    elif counts is not None:
        weights[: len(counts)] = counts[: len(table)]
        weights += _SMOOTHING
    else:
        weights += 1.0 / np.arange(3.0, 3.0 + len(table))
    return weights
