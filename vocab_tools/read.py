"""Open a tokenizer of any supported family as a spec with its tokens, roles and reserved ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from vocab_tools.canonical import Marks, Role, find_roles, looks_reserved
from vocab_tools.errors import VocabularyError
from vocab_tools.files import JSON, MOST_TOKENS, parse_json, read_bytes
from vocab_tools.read_files import read_byte_level, read_sentencepiece, read_wordpiece
from vocab_tools.specs import Family, Spec, is_byte_level, marks_words_with_metaspace

if TYPE_CHECKING:
    import tokenizers

_FAMILIES: dict[str, Family] = {"WordPiece": "wordpiece", "Unigram": "unigram", "BPE": "bpe"}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_GENERIC_CLASSES = {"PreTrainedTokenizerFast", "TokenizersBackend"}
_KEPT_SETTINGS = ("model_max_length", "padding_side", "truncation_side", "model_input_names")


@dataclass(frozen=True)
class TeacherTokenizer:
    """One tokenizer, read but not run. `tokens` is id -> token, [V_teacher], None where an id has no token."""

    name: str
    spec: Spec
    family: Family
    tokens: tuple[str | None, ...]
    roles: Mapping[Role, int]
    reserved: frozenset[int]
    declared: Mapping[str, str]
    settings: Mapping[str, JSON]
    notes: tuple[str, ...] = field(default=())

    @property
    def marks(self) -> Marks:
        """How this vocabulary tells the beginning of a word from its continuation."""
        if is_byte_level(self.spec):
            return "byte-level"
        if marks_words_with_metaspace(self.spec):
            return "metaspace"
        return "wordpiece" if self.prefix else "none"

    @property
    def prefix(self) -> str:
        """What marks a continuation, `##` in WordPiece; empty where there is no such mark."""
        return self.spec["model"].get("continuing_subword_prefix") or ""

    def backend(self) -> tokenizers.Tokenizer:
        """The running tokenizer: what the ids of this teacher are defined by."""
        import tokenizers

        return tokenizers.Tokenizer.from_str(json.dumps(self.spec, ensure_ascii=False))

    def fingerprint(self) -> str:
        """Hash of everything that decides an id: 32 hex digits, equal for equal tokenizers in whatever file."""
        model = self.spec["model"]
        rest = {key: value for key, value in self.spec.items() if key not in ("model", "truncation", "padding")}
        small = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
        digest = hashlib.blake2b(json.dumps([rest, small], sort_keys=True).encode(), digest_size=16)
        digest.update("\0".join(token or "" for token in self.tokens).rstrip("\0").encode())
        digest.update("\0".join(f"{left} {right}" for left, right in model.get("merges", [])).encode())
        if isinstance(model["vocab"], list):
            digest.update(np.array([score for _, score in model["vocab"]], dtype=np.float64).tobytes())
        return digest.hexdigest()


def read_tokenizer(where: Path | str, *, name: str | None = None) -> TeacherTokenizer:
    """Open a file or folder (`tokenizer.json`, `vocab.txt`, `.model`, `vocab.json` + `merges.txt`), or a hub name.

    A `tokenizer_config.json` beside them is obeyed; where it names a class that rebuilds the tokenizer, transformers
    does so. Without it, a bare `vocab.txt` lower-cases if hardly any of its tokens holds an upper-case letter, and a
    bare `sentencepiece.bpe.model` has the ids of XLM-R. Raises VocabularyError with one sentence.
    """
    path = Path(where)
    name = name or name_of(where)
    if not path.exists() and not _HUB_NAME.fullmatch(str(where)):
        raise VocabularyError(f"{where} does not exist; expected a tokenizer's folder or file, or a name of the hub")
    if not path.exists():
        return _read_with_transformers(str(where), name)
    try:
        return _read_local(path, name)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:  # of what a damaged file lacks
        raise VocabularyError(f"{where} cannot be read as a tokenizer ({error!r:.200}); is the file whole?") from error


def _read_local(path: Path, name: str) -> TeacherTokenizer:
    folder = path if path.is_dir() else path.parent
    config = _read_json(folder / "tokenizer_config.json") if path.is_dir() else {}
    declared = _declared(config)
    file = _pick_file(path) if path.is_dir() else path
    class_name = config.get("tokenizer_class")
    if class_name is not None and class_name not in _GENERIC_CLASSES:
        return _read_with_transformers(str(folder), name)
    spec = _read_file(file, lowercase=config.get("do_lower_case"))
    if file.name == "tokenizer.json" and set(declared.values()) - _contents(spec):
        return _read_with_transformers(str(folder), name)  # transformers appends what is declared but not there
    settings = {key: config[key] for key in _KEPT_SETTINGS if key in config}
    rows = _read_json(folder / "config.json").get("vocab_size") if path.is_dir() else None
    return describe(spec, name=name, declared=declared, settings=settings, rows=rows if isinstance(rows, int) else 0)


def name_of(where: Path | str) -> str:
    """What a tokenizer is called: the name of its folder, or the last part of a name of the hub."""
    path = Path(where)
    return (path.absolute().parent if path.is_file() else path.absolute()).name


def describe(
    spec: Spec, *, name: str, declared: Mapping[str, str], settings: Mapping[str, JSON], rows: int = 0
) -> TeacherTokenizer:
    """Derive ids, roles and reserved tokens from a spec; `rows` is the height of the model's embedding, if known."""
    model = spec["model"]
    family = _FAMILIES.get(model["type"])
    if family is None:
        raise VocabularyError(
            f"tokenizer '{name}' is a {str(model['type'])[:40]} model; known are WordPiece, Unigram and BPE"
        )
    if model.get("end_of_word_suffix"):
        raise VocabularyError(f"tokenizer '{name}' marks the ends of words, not their beginnings; it cannot be used")
    vocab = model["vocab"]
    index = {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    index |= {token["content"]: token["id"] for token in spec["added_tokens"]}
    if not index:
        raise VocabularyError(f"tokenizer '{name}' has no tokens")
    wrong = [(token, i) for token, i in index.items() if type(i) is not int or not 0 <= i < MOST_TOKENS]
    if wrong or rows >= MOST_TOKENS:
        token, i = wrong[0] if wrong else ("its model", rows)
        raise VocabularyError(
            f"tokenizer '{name}': {token!r:.60} has {str(i)[:40]}, beyond the ids 0 to {MOST_TOKENS - 1:,}; "
            "is the file damaged?"
        )
    size = max(index.values()) + 1
    notes: list[str] = []
    if rows > size:
        notes.append(f"the model has {rows:,} rows and the tokenizer {size:,} ids; the other rows have no token")
    if 0 < rows < size:
        notes.append(f"the tokenizer has {size:,} ids and the model only {rows:,} rows; ids beyond have no embedding")
    tokens: list[str | None] = [None] * max(size, rows)
    for token, i in index.items():
        tokens[i] = token
    if len(index) < size:
        notes.append(f"{size - len(index):,} ids have no token of their own (holes or duplicate tokens)")
    unk_token = model.get("unk_token")
    unknown = model.get("unk_id") if family == "unigram" else index.get(unk_token) if unk_token else None
    roles = find_roles(index, declared=declared, unknown=unknown)
    added = {token["id"] for token in spec["added_tokens"]}
    reserved = {i for i, token in enumerate(tokens) if token is not None and (i in added or looks_reserved(token))}
    return TeacherTokenizer(
        name=name,
        spec=spec,
        family=family,
        tokens=tuple(tokens),
        roles=roles,
        reserved=frozenset(reserved - set(roles.values())),
        declared=declared,
        settings=settings,
        notes=tuple(notes),
    )


def _pick_file(folder: Path) -> Path:
    for file_name in ("tokenizer.json", "vocab.txt"):
        if (folder / file_name).is_file():
            return folder / file_name
    models = sorted(folder.glob("*.model"))
    if len(models) == 1:
        return models[0]
    if len(models) > 1:
        raise VocabularyError(f"{folder} holds {len(models)} .model files; give the path of one of them")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return folder / "vocab.json"
    raise VocabularyError(
        f"{folder} holds no tokenizer; expected tokenizer.json, vocab.txt, one .model, or vocab.json with merges.txt"
    )


def _read_file(file: Path, *, lowercase: JSON) -> Spec:
    try:
        if file.suffix == ".model":
            return read_sentencepiece(file)
        if file.suffix == ".txt":
            return read_wordpiece(file, lowercase=lowercase if isinstance(lowercase, bool) else None)
        if file.name == "vocab.json":
            return read_byte_level(file, file.with_name("merges.txt"))
        document = parse_json(read_bytes(file))
        if not isinstance(document, dict):
            raise TypeError("it holds no JSON object")
        return _completed(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VocabularyError(f"{file} cannot be read as a tokenizer ({error}); is the file whole?") from error


def _completed(document: dict[str, JSON]) -> Spec:
    """A tokenizer.json of any age, with `type` in the model and merges as pairs."""
    model = document["model"]
    if not isinstance(model, dict):
        raise TypeError("its model is no object")
    if "type" not in model:
        model["type"] = "Unigram" if isinstance(model["vocab"], list) else "BPE" if "merges" in model else "WordPiece"
    merges = model.get("merges")
    if isinstance(merges, list) and merges and isinstance(merges[0], str):
        model["merges"] = [list(merge.split(" ")) for merge in merges if isinstance(merge, str)]
    complete = {key: document.get(key) for key in Spec.__annotations__}
    complete["added_tokens"] = complete["added_tokens"] or []
    return cast(Spec, complete)


def _contents(spec: Spec) -> set[str]:
    vocab = spec["model"]["vocab"]
    pieces = (piece for piece, _ in vocab) if isinstance(vocab, list) else iter(vocab)
    return {*pieces, *(token["content"] for token in spec["added_tokens"])}


def _read_with_transformers(where: str, name: str) -> TeacherTokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise VocabularyError(
            f"'{where}' is no tokenizer file or folder here, and transformers cannot open it"
            f" ({reason[0] if reason else type(error).__name__})"
        ) from error
    if not tokenizer.is_fast:
        raise VocabularyError(
            f"tokenizer '{name}' ({type(tokenizer).__name__}) has no fast version; convert it to a tokenizer.json first"
        )
    spec = _completed(json.loads(tokenizer.backend_tokenizer.to_str()))
    declared = {key: token for key, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    settings: dict[str, JSON] = {
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "model_input_names": list(tokenizer.model_input_names),
    }
    rows = _read_json(Path(where) / "config.json").get("vocab_size") if Path(where).is_dir() else None
    return describe(spec, name=name, declared=declared, settings=settings, rows=rows if isinstance(rows, int) else 0)


def _declared(config: Mapping[str, JSON]) -> dict[str, str]:
    declared: dict[str, str] = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
        value = config.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            declared[key] = content
    return declared


def _read_json(path: Path) -> dict[str, JSON]:
    if not path.is_file():
        return {}
    try:
        document = parse_json(read_bytes(path))
    except ValueError as error:
        raise VocabularyError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise VocabularyError(f"{path} holds no JSON object")
    return document
