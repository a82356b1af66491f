"""The parsed tokenizer.json that every tokenizer becomes here, and what can be read off its components.

A *spec* is the document that `tokenizers` itself loads and saves; nothing here runs a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal, NotRequired, TypeAlias, TypedDict

Component: TypeAlias = dict[str, object]
Family: TypeAlias = Literal["wordpiece", "unigram", "bpe"]

METASPACE = "▁"


class AddedToken(TypedDict):
    """A token that is cut out of the text before the model sees it."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class Model(TypedDict):
    """The model of a tokenizer.json; which keys are there depends on `type`."""

    type: str
    vocab: dict[str, int] | list[tuple[str, float]]
    merges: NotRequired[list[tuple[str, str]]]
    unk_token: NotRequired[str | None]
    unk_id: NotRequired[int | None]
    byte_fallback: NotRequired[bool]
    ignore_merges: NotRequired[bool]
    continuing_subword_prefix: NotRequired[str | None]
    end_of_word_suffix: NotRequired[str | None]
    max_input_chars_per_word: NotRequired[int]
    fuse_unk: NotRequired[bool]
    dropout: NotRequired[float | None]


class Spec(TypedDict):
    """A tokenizer.json."""

    version: str
    truncation: Component | None
    padding: Component | None
    added_tokens: list[AddedToken]
    normalizer: Component | None
    pre_tokenizer: Component | None
    post_processor: Component | None
    decoder: Component | None
    model: Model


def added_token(index: int, content: str, *, special: bool = True, lstrip: bool = False) -> AddedToken:
    """An added token that is matched in the text as it stands, before normalisation."""
    return AddedToken(
        id=index, content=content, single_word=False, lstrip=lstrip, rstrip=False, normalized=False, special=special
    )


def template(
    vocab: Mapping[str, int], cls: str | None, sep: str | None, *, second_type: int, twice: bool = False
) -> Component:
    """The post-processor `cls A sep`, `cls A sep B sep` (`twice`: `sep sep` between), with what the vocabulary has."""
    used = [token for token in (cls, sep) if token is not None and token in vocab]

    def special(token: str | None, type_id: int) -> list[Component]:
        return [{"SpecialToken": {"id": token, "type_id": type_id}}] if token in used else []

    single = [*special(cls, 0), {"Sequence": {"id": "A", "type_id": 0}}, *special(sep, 0)]
    between = special(sep, 0) if twice else []
    pair = [*single, *between, {"Sequence": {"id": "B", "type_id": second_type}}, *special(sep, second_type)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in used},
    }


def components(root: Component | None) -> Iterator[Component]:
    """A normalizer, pre-tokenizer or post-processor and all that it is a sequence of, in their order."""
    if root is None:
        return
    yield root
    for key in ("normalizers", "pretokenizers", "processors"):
        parts = root.get(key)
        if isinstance(parts, list):
            for part in parts:
                yield from components(part)


def template_ids(spec: Spec) -> set[int]:
    """The ids that the post-processor adds around a text."""
    ids: set[int] = set()
    for stage in components(spec["post_processor"]):
        for key in ("cls", "sep"):  # BertProcessing, RobertaProcessing
            pair = stage.get(key)
            if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], int):
                ids.add(pair[1])
        special = stage.get("special_tokens")  # TemplateProcessing
        if isinstance(special, dict):
            ids.update(index for entry in special.values() for index in entry["ids"])
    return ids


def is_byte_level(spec: Spec) -> bool:
    """Whether the model sees bytes, written as the 256 printable characters of GPT-2."""
    stages = [*components(spec["normalizer"]), *components(spec["pre_tokenizer"])]
    return any(stage.get("type") == "ByteLevel" for stage in stages)


def marks_words_with_metaspace(spec: Spec) -> bool:
    """Whether a word begins with `▁`, as in SentencePiece."""
    if any(stage.get("type") == "Metaspace" for stage in components(spec["pre_tokenizer"])):
        return True
    return any(
        stage.get("content") == METASPACE or stage.get("prepend") == METASPACE
        for stage in components(spec["normalizer"])
    )


def hides_spaces(spec: Spec) -> bool:
    """Whether it is certain that no space ever reaches the model, so that a piece with a space in it never matches."""
    hiding = {"BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit"}
    if any(stage.get("type") in hiding for stage in components(spec["pre_tokenizer"])):
        return True
    stages = [stage for stage in components(spec["normalizer"]) if stage.get("type") != "Sequence"]
    while stages and stages[-1].get("type") == "Prepend":
        stages.pop()
    last = stages[-1] if stages else {}
    return last.get("type") == "ByteLevel" or (last.get("type") == "Replace" and last.get("pattern") == {"String": " "})


@cache
def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (Radford et al. 2019): character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


@cache
def byte_pieces() -> dict[str, int]:
    """The pieces `<0x00>` … `<0xFF>` of vocabularies with byte fallback: piece -> byte."""
    return {f"<0x{byte:02X}>": byte for byte in range(256)}
