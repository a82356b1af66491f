"""Student tokenizers: the teacher's, segmenting as before and emitting student ids, as a plain tokenizer.json.

V student ids, V_t ids of the teacher.

The rule. Everything around the model (added tokens, normaliser, pre-tokenizer, template, type ids, decoder) stays as it
is but for the ids. The model keeps the pieces whose map is not -1, hence, for each word that the teacher cuts into kept
pieces only, the student's ids are the map of the teacher's: WordPiece takes the longest match, which is still there;
a unigram's best path is still there and still best, since other paths only vanish and an unknown character costs what
it did; BPE performs the same merges, since all that leads to a kept piece is kept. A word with a dropped piece is cut
finer by the same algorithm from the kept pieces.

Student ids that are not this teacher's are filled by pieces that begin with a space. No space reaches the model, so
they never match, and every student tokenizer has as many tokens as the student has rows. (Dropped pieces as aliases of
[UNK] are possible in WordPiece alone, and such a file does not survive being saved again.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from json.encoder import encode_basestring as quote
from typing import cast

import numpy as np

from vocab_tools.canonical import ROLES, Role, role_name
from vocab_tools.errors import VocabularyError
from vocab_tools.files import JSON
from vocab_tools.read import TeacherTokenizer
from vocab_tools.specs import AddedToken, Component, added_token, hides_spaces
from vocab_tools.union import Int32

_BOS_EOS = {
    "<s>": "bos_token",
    "<bos>": "bos_token",
    "</s>": "eos_token",
    "<eos>": "eos_token",
    "<|endoftext|>": "eos_token",
}


class Fillers:
    """The pieces that hold the place of foreign ids, as JSON, once for all student tokenizers of a vocabulary."""

    def __init__(self, names: Sequence[str]) -> None:
        self.pieces = [f" {name}" for name in names]
        self.quoted = [quote(piece) for piece in self.pieces]

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def entries(self) -> list[str]:
        """As members of a JSON object, piece to id."""
        return [f"{quoted}:{index}" for index, quoted in enumerate(self.quoted)]


def student_document(teacher: TeacherTokenizer, table: Int32, fillers: Fillers) -> bytes:
    """The student's tokenizer.json: `table` is int32 [V_t] (-1: dropped), `fillers` are of the V student tokens."""
    special = _role_tokens(teacher)
    pieces = dict(enumerate(special.values()))
    kept = np.flatnonzero(table >= 0)
    pieces |= {new: teacher.tokens[old] or "" for old, new in zip(kept.tolist(), table[kept].tolist(), strict=True)}
    _require_room(teacher, pieces, fillers)
    spec = teacher.spec
    document: Component = {
        **spec,
        "padding": None if spec["padding"] is None else _with_pad(spec["padding"], special["pad"]),
        "added_tokens": _added(teacher, table, special),
        "post_processor": _renumbered(spec["post_processor"], table),
        "model": None,
    }
    del document["model"]  # last, and in it the vocabulary, which is put together as text: it is long
    document["model"] = {**_model(teacher, table, set(pieces.values())), "vocab": None}
    head = dump(document).removesuffix(b"null}}")
    pieces |= _renamed_fillers(pieces, fillers)
    return head + _vocabulary(teacher, table, pieces, fillers).encode("utf-8") + b"}}"


def student_config(teacher: TeacherTokenizer) -> dict[str, JSON]:
    """The tokenizer_config.json beside it, which makes AutoTokenizer open it with no code of its own."""
    special = _role_tokens(teacher)
    config: dict[str, JSON] = {"tokenizer_class": "PreTrainedTokenizerFast", **teacher.settings}
    tokens = teacher.tokens
    kept = {tokens[index] for index in teacher.roles.values()}
    if teacher.declared:
        config |= {key: token for key, token in teacher.declared.items() if token in kept}
    else:
        config |= {_BOS_EOS[token]: token for token in special.values() if token in _BOS_EOS}
    return config | {f"{role}_token": token for role, token in special.items()}


def dump(document: Mapping[str, object]) -> bytes:
    """A document as compact UTF-8 JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _role_tokens(teacher: TeacherTokenizer) -> dict[Role, str]:
    """What each special token is called in this tokenizer: as the teacher calls it, else `[PAD]` and so on."""
    names: dict[Role, str] = {}
    known = set(teacher.tokens)
    for role in ROLES:
        own = teacher.tokens[teacher.roles[role]] if role in teacher.roles else None
        name = own or role_name(role)
        while own is None and name in known:
            name = f"[{name}]"
        names[role] = name
    return names


def _require_room(teacher: TeacherTokenizer, pieces: Mapping[int, str], fillers: Fillers) -> None:
    """Refuse a tokenizer in which a filler might match."""
    can_match = teacher.family != "bpe" or teacher.spec["model"].get("ignore_merges")
    if len(pieces) < len(fillers) and can_match and not hides_spaces(teacher.spec):
        raise VocabularyError(
            f"tokenizer '{teacher.name}' may hand spaces to its model, so ids of other teachers cannot be kept free in"
            " it; use it alone, or give it a pre-tokenizer that splits at spaces"
        )


def _renamed_fillers(pieces: Mapping[int, str], fillers: Fillers) -> dict[int, str]:
    """Other names for the fillers that are spelled like a token of this teacher, such as added runs of spaces."""
    spaced = {piece for piece in pieces.values() if piece.startswith(" ")}
    clashes = (i for i, filler in enumerate(fillers.pieces) if filler in spaced and i not in pieces) if spaced else ()
    return {index: f" {index}{fillers.pieces[index]}" for index in clashes}


def _model(teacher: TeacherTokenizer, table: Int32, kept: set[str]) -> Component:
    """The model but for its vocabulary."""
    model: Component = {key: value for key, value in teacher.spec["model"].items() if key != "vocab"}
    unknown = model.get("unk_id")
    if isinstance(unknown, int):
        model["unk_id"] = int(table[unknown])
    if "merges" in teacher.spec["model"]:
        prefix = teacher.prefix
        model["merges"] = [
            (left, right)
            for left, right in teacher.spec["model"]["merges"]
            if left in kept and right in kept and left + right.removeprefix(prefix) in kept
        ]
    return model


def _vocabulary(teacher: TeacherTokenizer, table: Int32, pieces: Mapping[int, str], fillers: Fillers) -> str:
    """The model's vocabulary as JSON: in a unigram the list of pieces and scores, elsewhere an object piece to id."""
    vocab = teacher.spec["model"]["vocab"]
    if not isinstance(vocab, list):
        entries = fillers.entries.copy()
        for new, piece in pieces.items():
            entries[new] = f"{quote(piece)}:{new}"
        return "{" + ",".join(entries) + "}"
    lowest = min(score for _, score in vocab)  # no lower than before, or unknown characters would cost more
    scores = {int(new): score for new, (_, score) in zip(table, vocab, strict=False)}
    entries = [f"[{quoted},{lowest!r}]" for quoted in fillers.quoted]
    for new, piece in pieces.items():
        entries[new] = f"[{quote(piece)},{scores.get(new, lowest)!r}]"
    return "[" + ",".join(entries) + "]"


def _added(teacher: TeacherTokenizer, table: Int32, special: Mapping[Role, str]) -> list[AddedToken]:
    added: dict[int, AddedToken] = {}
    for token in teacher.spec["added_tokens"]:
        if (new := int(table[token["id"]])) >= 0:
            added[new] = token.copy()
            added[new]["id"] = new
    for new, name in enumerate(special.values()):
        added.setdefault(new, added_token(new, name))
    return [added[new] for new in sorted(added)]


def _with_pad(padding: Component, token: str) -> Component:
    return {**padding, "pad_id": ROLES.index("pad"), "pad_token": token}


def _renumbered(root: Component | None, table: Int32) -> Component | None:
    """A post-processor with student ids in place of the teacher's."""
    if root is None:
        return None
    result = dict(root)
    kind = root.get("type")
    if kind == "Sequence":
        parts = cast("list[Component]", root["processors"])
        result["processors"] = [_renumbered(part, table) for part in parts]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for key in ("sep", "cls"):
            token, index = cast("tuple[str, int]", root[key])
            result[key] = [token, int(table[index])]
    elif kind == "TemplateProcessing":
        special = cast("dict[str, dict[str, list[int]]]", root["special_tokens"])
        result["special_tokens"] = {
            token: {**entry, "ids": [int(table[index]) for index in entry["ids"]]} for token, entry in special.items()
        }
    return result
