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
from typing import cast

import numpy as np

from vocab_tools.canonical import ROLES, Role, role_name
from vocab_tools.errors import VocabularyError
from vocab_tools.read import JSON, TeacherTokenizer
from vocab_tools.specs import AddedToken, Component, Model, Spec, added_token, hides_spaces
from vocab_tools.union import Int32

_BOS_EOS = {
    "<s>": "bos_token",
    "<bos>": "bos_token",
    "</s>": "eos_token",
    "<eos>": "eos_token",
    "<|endoftext|>": "eos_token",
}


def student_spec(teacher: TeacherTokenizer, table: Int32, names: Sequence[str]) -> Spec:
    """The tokenizer.json of the student: `table` is int32 [V_t] (-1: dropped), `names` the V tokens of vocab.json."""
    pieces: list[str | None] = [None] * len(names)
    for token, new in zip(teacher.tokens, table.tolist(), strict=True):
        if new >= 0:
            pieces[new] = token
    special = _role_tokens(teacher)
    for role, token in special.items():
        pieces[ROLES.index(role)] = token
    filled = _fill(teacher, pieces, names)
    spec = teacher.spec
    return Spec(
        version=spec["version"],
        truncation=spec["truncation"],
        padding=None if spec["padding"] is None else _with_pad(spec["padding"], special["pad"]),
        added_tokens=_added(teacher, table, special),
        normalizer=spec["normalizer"],
        pre_tokenizer=spec["pre_tokenizer"],
        post_processor=_renumbered(spec["post_processor"], table),
        decoder=spec["decoder"],
        model=_model(teacher, table, filled),
    )


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


def _fill(teacher: TeacherTokenizer, pieces: Sequence[str | None], names: Sequence[str]) -> list[str]:
    taken = {piece for piece in pieces if piece is not None}
    missing = len(pieces) - len(taken)
    needs_proof = teacher.family != "bpe" or teacher.spec["model"].get("ignore_merges")
    if missing and needs_proof and not hides_spaces(teacher.spec):
        raise VocabularyError(
            f"tokenizer '{teacher.name}' may hand spaces to its model, so ids of other teachers cannot be kept free in"
            " it; use it alone, or give it a pre-tokenizer that splits at spaces"
        )
    filled: list[str] = []
    for piece, name in zip(pieces, names, strict=True):
        if piece is None:
            piece = f" {name}"
            while piece in taken:
                piece = f" {piece}"
        filled.append(piece)
    return filled


def _model(teacher: TeacherTokenizer, table: Int32, pieces: Sequence[str]) -> Model:
    model = cast(Model, {key: value for key, value in teacher.spec["model"].items() if key not in ("vocab", "merges")})
    vocab = teacher.spec["model"]["vocab"]
    if isinstance(vocab, list):
        old = np.array([score for _, score in vocab])
        scores = np.full(len(pieces), old.min())  # no lower than before, or unknown characters would cost more
        mapped = np.flatnonzero(table[: len(old)] >= 0)
        scores[table[mapped]] = old[mapped]
        model["vocab"] = list(zip(pieces, scores.tolist(), strict=True))
        unknown = model.get("unk_id")
        if unknown is not None:
            model["unk_id"] = int(table[unknown])
        return model
    model["vocab"] = dict(zip(pieces, range(len(pieces)), strict=True))
    if "merges" in teacher.spec["model"]:
        kept = {token for token, new in zip(teacher.tokens, table.tolist(), strict=True) if new >= 0}
        prefix = teacher.prefix
        model["merges"] = [
            (left, right)
            for left, right in teacher.spec["model"]["merges"]
            if left in kept and right in kept and left + right.removeprefix(prefix) in kept
        ]
    return model


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
