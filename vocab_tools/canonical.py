"""What a token of any tokenizer family means: its text or bytes, whether it begins a word, and the special roles.

The rules (docs/vocabularies.md gives the reasons and examples):

1. `▁the`, `Ġthe` and WordPiece `the` are one token that begins a word; SentencePiece `ing`, byte-level `ing` and
   WordPiece `##ing` are one token that continues a word. A `▁` or space inside a piece is a space.
2. WordPiece cuts punctuation and ideographs from their neighbours, space or no space, and kana follow ideographs
   without a space, so there the missing `##` says nothing: such pieces count as continuing, as the unmarked pieces of
   SentencePiece do.
3. Digits, emoji and scripts that all families cut at spaces alone (Thai, Khmer, …) follow rule 1.
4. Text is compared in Unicode normal form NFC. Case and accents are never folded: a lower-casing teacher shares the
   lower-case tokens of the others.
5. A byte-level piece is text where its bytes are valid UTF-8, else bytes; `<0xE4>` is always a byte.
6. Special tokens are matched by role. All other added, control and reserved tokens keep to themselves.
7. Where two pieces of one vocabulary come out the same, the plainer (without `##`), then the lower id, is the token;
   the other meets only pieces spelled like it in the same family. So no two ids of one vocabulary ever merge.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from vocab_tools.specs import METASPACE, byte_alphabet, byte_pieces

Role: TypeAlias = Literal["pad", "unk", "cls", "sep", "mask"]
Marks: TypeAlias = Literal["wordpiece", "metaspace", "byte-level", "none"]

#: The special tokens of every student vocabulary; their ids are their places here.
ROLES: tuple[Role, ...] = ("pad", "unk", "cls", "sep", "mask")

_USUAL_NAMES: dict[Role, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "unk": ("[UNK]", "<unk>", "<|unk|>", "<|unknown|>"),
    "cls": ("[CLS]", "<cls>", "<s>", "<bos>", "[BOS]", "<|startoftext|>"),
    "sep": ("[SEP]", "<sep>", "</s>", "<eos>", "[EOS]", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}
_DECLARED_KEYS: dict[Role, tuple[str, ...]] = {
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "cls": ("cls_token", "bos_token"),
    "sep": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}
#: Who gets a token that plays several roles: what delimits text comes before what stands in for something.
_ROLE_ORDER: tuple[Role, ...] = ("mask", "sep", "cls", "unk", "pad")

_RESERVED = re.compile(
    r"\[unused\d+\]|<unused_?\d+>|<extra_id_\d+>|madeupword\d+|<\|[^|]*\|>|[<\[]reserved[^>\]]*[>\]]"
)
_CUT_OFF = re.compile(
    "[\u2e80-\u2fdf\u3000-\u312f\u3190-\u31ff\u3300-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af]"
)


class CanonicalToken(NamedTuple):
    """The identity of a token across vocabularies; equal tokens of different teachers become one student token.

    `owner` is empty for ordinary text, "role" for a special token, and else names the vocabulary, or for the lesser of
    two pieces that mean the same (rule 7) the family, that it keeps to.
    """

    text: str | bytes
    begins_word: bool
    owner: str = ""


def role_name(role: Role) -> str:
    """How a special token is called in a student vocabulary, for example `[MASK]`."""
    return f"[{role.upper()}]"


def find_roles(index: Mapping[str, int], *, declared: Mapping[str, str], unknown: int | None) -> dict[Role, int]:
    """Special tokens by role: the model's own unknown token, then what the tokenizer declares, then the usual names.

    `index` is token -> id, `declared` maps keys like `mask_token` to tokens, `unknown` is the id that the model emits.
    """
    roles: dict[Role, int] = {}
    for role in _ROLE_ORDER:
        named = [declared[key] for key in _DECLARED_KEYS[role] if key in declared]
        candidates = [index[token] for token in (*named, *_USUAL_NAMES[role]) if token in index]
        if role == "unk" and unknown is not None:
            candidates.insert(0, unknown)
        free = [candidate for candidate in candidates if candidate not in roles.values()]
        if free and candidates[0] == free[0]:
            roles[role] = free[0]
    return {role: roles[role] for role in ROLES if role in roles}


def looks_reserved(token: str) -> bool:
    """Whether a token is a placeholder such as `[unused7]`, `<extra_id_3>` or `madeupword0001`."""
    return _RESERVED.fullmatch(token) is not None


def canonical_text(token: str, *, marks: Marks, prefix: str = "##", byte_fallback: bool = False) -> CanonicalToken:
    """The canonical form of one ordinary token; `prefix` marks continuation where `marks` is "wordpiece"."""
    if byte_fallback and token in byte_pieces():
        return CanonicalToken(bytes([byte_pieces()[token]]), False)
    if marks == "metaspace":
        begins = token.startswith(METASPACE)
        return CanonicalToken(_composed(token[begins:].replace(METASPACE, " ")), begins)
    if marks == "byte-level":
        return _from_bytes(token)
    if marks == "wordpiece":
        if token.startswith(prefix) and len(token) > len(prefix):
            return CanonicalToken(_composed(token[len(prefix) :]), False)
        return CanonicalToken(_composed(token), not is_cut_off(token))
    return CanonicalToken(_composed(token), False)


def canonical_tokens(
    tokens: Sequence[str | None],
    *,
    owner: str,
    marks: Marks,
    prefix: str = "##",
    byte_fallback: bool = False,
    roles: Mapping[Role, int],
    reserved: Iterable[int],
    merge: Literal["canonical", "surface"] = "canonical",
) -> list[CanonicalToken | None]:
    """The identity of every id of one vocabulary, all different; None where an id has no token."""
    identities: list[CanonicalToken | None] = [None] * len(tokens)
    for role, index in roles.items():
        identities[index] = CanonicalToken(role_name(role), False, "role")
    for index in reserved:
        token = tokens[index]
        if token is not None and identities[index] is None:
            identities[index] = CanonicalToken(token, False, owner)
    seen: set[CanonicalToken] = set()
    for index, token in _plainer_first(tokens, prefix if marks == "wordpiece" else None):
        if token is None or identities[index] is not None:
            continue
        if merge == "surface":
            identity = CanonicalToken(token, False)
        else:
            identity = canonical_text(token, marks=marks, prefix=prefix, byte_fallback=byte_fallback)
            if identity in seen:
                identity = CanonicalToken(token, identity.begins_word, marks)
        seen.add(identity)
        identities[index] = identity
    return identities


def display(token: CanonicalToken) -> str:
    """How a canonical token is written in vocab.json: `▁the`, `ing`, `<0xE4><0xB8>`, `[MASK]`."""
    if isinstance(token.text, bytes):
        return "".join(f"<0x{byte:02X}>" for byte in token.text)
    return METASPACE + token.text if token.begins_word and not token.owner else token.text


def _plainer_first(tokens: Sequence[str | None], prefix: str | None) -> Iterator[tuple[int, str | None]]:
    if prefix is None:
        yield from enumerate(tokens)
        return
    marked = [token is not None and token.startswith(prefix) for token in tokens]
    yield from ((index, token) for index, token in enumerate(tokens) if not marked[index])
    yield from ((index, token) for index, token in enumerate(tokens) if marked[index])


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _from_bytes(token: str) -> CanonicalToken:
    alphabet = byte_alphabet()
    if not all(character in alphabet for character in token):
        return CanonicalToken(_composed(token), False)
    content = bytes(alphabet[character] for character in token)
    begins = content.startswith(b" ")
    try:
        return CanonicalToken(_composed(content[begins:].decode("utf-8")), begins)
    except UnicodeDecodeError:
        return CanonicalToken(content, False)


def is_cut_off(token: str) -> bool:
    """Whether BERT's pre-tokenizer separates the first character from its neighbours without any space."""
    first = token[:1]
    if first.isascii():
        return bool(first) and not first.isalnum() and first.isprintable()
    return _CUT_OFF.match(first) is not None or unicodedata.category(first).startswith("P")
