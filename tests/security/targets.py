"""The readers that are fuzzed, each with sound files, a forger who knows the checksums, and the truth by other means.

The truth is what the files say when they are read without orch: JSON by the standard library, Arrow as a stream,
safetensors by hand, YAML by libyaml. A mutation may be refused; when it is read, what is read must be the truth, and a
data set by the rules of `_well_formed`.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import yaml
from pydantic import ValidationError

from orchestrator import storage
from orchestrator.config.corpus import CorpusSection
from orchestrator.config.loading import load_config, parse_config
from orchestrator.config.reading import _Loader
from orchestrator.corpus.store import _CorpusRecord, build_corpus, open_corpus
from orchestrator.errors import OrchError
from orchestrator.records import SignalRequest, Unit
from orchestrator.signals import Fingerprint, Store
from orchestrator.signals import tables as signal_tables
from orchestrator.signals.manifest import Manifest, Receipt, read_receipt
from orchestrator.signals.topk import decode_topk
from tests.e2e.project import CONFIG
from tests.security.mutations import Node
from tests.signals.samples import contents, hidden, make_store, make_tables
from tests.vocab_tools.tiny import make_tokenizer
from vocab_tools.build import VocabularySource, build_vocabulary
from vocab_tools.errors import VocabularyError
from vocab_tools.files import hash_bytes as hash_of_vocabulary
from vocab_tools.mapping import open_vocabulary
from vocab_tools.read import read_tokenizer

Content: TypeAlias = bytes | Node
Files: TypeAlias = dict[str, Content]

#: What a reader may raise: a sentence for a person.
REFUSALS = (OrchError, VocabularyError)
_REQUEST = SignalRequest(
    top_k=4, temperatures=(2.0,), draws=5, head_states=True, states=hidden(0, 3), sentence_vectors=True
)


class ForgedError(ValueError):
    """A forged file that was read although it is no data set."""


@dataclass(frozen=True)
class Target:
    """One reader: `read` gives everything it read as plain values, `truth` the same of these files by other means."""

    folder: Path
    sound: Mapping[str, bytes]
    mutated: tuple[str, ...]  # the files that are damaged
    read: Callable[[], object]
    truth: Callable[[Mapping[str, Content]], object]
    seal: Callable[[Files, str], Files]  # make every checksum fit the file that was changed

    def put(self, name: str, content: Content) -> None:
        """Place a file, always as a new one: what was mapped before stays what it was."""
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        match content:
            case bytes():
                path.write_bytes(content)
            case Node("folder"):
                path.mkdir()
            case Node("pipe"):
                os.mkfifo(path)
            case Node("link", target):
                path.symlink_to(target)


# --- the store -----------------------------------------------------------------------------------------------------


def _store(folder: Path, mutated: tuple[str, ...]) -> Target:
    plan = [Unit("bert", index, language, 0, 2) for index, language in enumerate(("de", "en"))]
    made = make_store(folder / "made", _REQUEST, plan=plan)
    for unit in plan:
        made.write(unit, make_tables(unit, _REQUEST, tokens_per_row=5))
    made.finish()
    place = made.folder.rename(folder / "store")  # a name without digest, so that a forged fingerprint may pass

    def read() -> object:
        read_receipt.cache_clear()
        signal_tables._open_table.cache_clear()
        signal_tables._hashed.clear()
        store = Store.open(place)
        return {
            "manifest": json.loads(store._manifest.model_dump_json()),
            "receipts": {str(index): json.loads(one.model_dump_json()) for index, one in store.receipts().items()},
            "shards": {
                str(unit.index): {
                    table: {name: _plain(column) for name, column in columns.items()}
                    for table, columns in store.shard(unit.index).items()
                }
                for unit in store.units
            },
        }

    def truth(files: Mapping[str, Content]) -> object:
        manifest = _json(files["manifest.json"])
        receipts, shards = {}, {}
        for unit in manifest["units"]:
            index = unit["index"]
            name = f"shards/{index:06d}.json"
            if name not in files:
                raise ForgedError(f"shard {index} is not there")
            receipts[str(index)] = receipt = _json(files[name])
            asked = ["texts", "tokens", "masked", *_asked(manifest["request"])]
            tables = {table: _columns(files[f"shards/{index:06d}/{table}.arrow"]) for table in asked}
            _well_formed(tables, manifest, receipt)
            shards[str(index)] = {
                table: {name: _plain(column) for name, column in columns.items()} for table, columns in tables.items()
            }
        return {"manifest": manifest, "receipts": receipts, "shards": shards}

    def seal(files: Files, name: str) -> Files:
        files = dict(files)
        if name == "manifest.json":
            files[name] = _sealed(Manifest, files[name], _with_its_digest)
        elif name.endswith(".arrow"):
            shard, table = name.split("/")[1], Path(name).stem
            tree = _json(files[f"shards/{shard}.json"])
            data = files[name]
            assert isinstance(data, bytes)
            tree["tables"][table] |= {"num_bytes": len(data), "hash": storage.hash_bytes(data)}
            with suppress(pa.ArrowException, OSError, ValueError):
                tree["tables"][table]["num_rows"] = pa.ipc.open_stream(data[8:]).read_all().num_rows
            files[f"shards/{shard}.json"] = _sealed(Receipt, json.dumps(tree).encode())
        else:
            files[name] = _sealed(Receipt, files[name])
        return files

    return Target(place, contents(place), mutated, read, truth, seal)


def _shard(folder: Path) -> Target:
    names = sorted(path.name for path in _store(folder / "names", ()).folder.glob("shards/000001/*"))
    return _store(folder, tuple(f"shards/000001/{name}" for name in names))


def _asked(request: dict) -> list[str]:  # type: ignore[type-arg]
    """The tables of the signals that a manifest asks for."""
    tables = [f"topk_{request['top_k']:03d}"] if request["top_k"] else []
    if tables and request["temperatures"]:
        tables += ["partition", *(f"partition_t{one:g}" for one in request["temperatures"])]
    tables += [f"{kind}_{request['draws']:03d}" for kind in ("draws", "drawn") if request["draws"]]
    tables += ["head_states"] if request["head_states"] else []
    tables = [table + "_all" * request["at_all_tokens"] for table in tables]
    tables += [f"{kind}_{layer:02d}" for kind, layer in request["states"]]
    return tables + (["sentence_vectors"] if request["sentence_vectors"] else [])


def _sealed(
    kind: type[Manifest] | type[Receipt] | type[_CorpusRecord],
    data: Content,
    prepare: Callable[[bytes], bytes] = lambda data: data,
) -> Content:
    """The file with the checksum of what it says, where it says anything of that kind."""
    if isinstance(data, Node):
        return data
    try:
        return kind.model_validate_json(prepare(data)).sealed().model_dump_json(indent=1).encode()
    except (ValidationError, ValueError, RecursionError):
        return data


def _with_its_digest(data: bytes) -> bytes:
    tree = _json(data)
    parts = tree.get("fingerprint")
    return json.dumps(tree | {"digest": Fingerprint(parts).digest}).encode() if isinstance(parts, dict) else data


def _well_formed(tables: Mapping[str, Mapping[str, np.ndarray]], manifest: dict, receipt: dict) -> None:  # type: ignore[type-arg]
    """What every shard promises, told in loops: rows own consecutive tokens, positions lie within their rows, …"""
    texts, masked = tables["texts"], tables["masked"]
    num_tokens, num_masked = len(tables["tokens"]["input_id"]), len(masked["token"])
    at, position, seen = 0, 0, set()
    for row in range(len(texts["row_id"])):
        identity = (int(texts["row_id"][row]), int(texts["copy"][row]))
        first, length = int(texts["first_token"][row]), int(texts["num_tokens"][row])
        first_masked, count = int(texts["first_masked"][row]), int(texts["num_masked"][row])
        _demand(identity not in seen and (first, first_masked) == (at, position) and length >= 0 and count >= 0)
        _demand(manifest["languages"][int(texts["language"][row])] == receipt["unit"]["language"])
        before = first - 1
        for place in masked["token"][position : position + count]:
            _demand(before < int(place) < first + length)
            before = int(place)
        seen.add(identity)
        at, position = at + length, position + count
    _demand((at, position) == (num_tokens, num_masked))
    _demand((receipt["num_rows"], receipt["num_tokens"], receipt["num_masked"]) == (len(seen), at, position))
    size = manifest["sizes"]["vocab_size"]
    ids = [
        tables["tokens"]["input_id"],
        masked["label_id"],
        *(decode_topk(t)[0] for t in tables.values() if "ids_low" in t),
    ]
    _demand(all(((one >= 0) & (one < size)).all() for one in ids))
    _demand(all(np.isfinite(t["logsumexp"]).all() for t in tables.values() if "logsumexp" in t))
    for name, columns in tables.items():
        rows = {"texts": len(seen), "sentence": len(seen), "tokens": at, "hidden": at}.get(name.split("_")[0], position)
        _demand(name.startswith("drawn") or all(len(column) == rows for column in columns.values()))


def _demand(holds: bool) -> None:
    if not holds:
        raise ForgedError("the tables do not belong together")


def _columns(data: Content) -> dict[str, np.ndarray]:
    if isinstance(data, Node):
        raise ForgedError("no file")
    table = pa.ipc.open_stream(data[8:]).read_all()
    found = {}
    for name in table.column_names:
        array = table.column(name).combine_chunks()
        is_list = pa.types.is_fixed_size_list(array.type)
        values = (array.flatten() if is_list else array).to_numpy(zero_copy_only=False)
        found[name] = values.reshape(len(array), array.type.list_size) if is_list else values
    return found


def _plain(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, array.tobytes()


def _json(data: Content) -> dict:  # type: ignore[type-arg]
    """A JSON object by the standard library; a key that stands twice is no truth."""
    if isinstance(data, Node):
        raise ForgedError("no file")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ForgedError("a key stands twice")
        return dict(pairs)

    try:
        tree = json.loads(data, object_pairs_hook=once)
    except RecursionError:
        raise ForgedError("too deep") from None
    return tree if isinstance(tree, dict) else {}


# --- vocabularies and tokenizers -----------------------------------------------------------------------------------


def _mapping(folder: Path) -> Target:
    teacher = make_tokenizer("wordpiece-cased", folder / "teacher")
    place = folder / "vocabulary"
    build_vocabulary([VocabularySource("teacher", teacher)], place)
    names = ("mapping.json", "vocab.json", "maps/teacher.npy", "tokenizers/teacher/tokenizer_config.json")

    def read() -> object:
        vocabulary = open_vocabulary(place)
        vocabulary.verify()
        for name in vocabulary.tokenizers:
            vocabulary.tokenizer_folder(name)
        return {
            "tokens": list(vocabulary.tokens),
            "maps": {name: vocabulary.map(name).tolist() for name in vocabulary.teachers},
            "support": {name: int(vocabulary.support(name).sum()) for name in vocabulary.teachers},
            "names": [dict(vocabulary.teachers), dict(vocabulary.opened), dict(vocabulary.tokenizers)],
        }

    def truth(files: Mapping[str, Content]) -> object:
        document, tokens = _json(files["mapping.json"]), _json(files["vocab.json"])
        maps = {}
        for name in document["teachers"]:
            data = files[f"maps/{name}.npy"]
            assert isinstance(data, bytes)
            table = np.load(io.BytesIO(data), allow_pickle=False)
            _demand(table.dtype == np.int32 and table.ndim == 1 and ((table >= -1) & (table < len(tokens))).all())
            maps[name] = table.tolist()
        _demand(len(tokens) == document["size"])
        return {
            "tokens": [tokens[str(index)] for index in range(len(tokens))],
            "maps": maps,
            "support": {name: len({one for one in table if one >= 0}) for name, table in maps.items()},
            "names": [document["teachers"], document["opened"], document["tokenizers"]],
        }

    def seal(files: Files, name: str) -> Files:
        files = dict(files)
        try:
            document = _json(files["mapping.json"])
        except (ForgedError, ValueError):
            return files
        data = files.get(name)
        if name != "mapping.json" and isinstance(data, bytes):
            document["files"][name] = hash_of_vocabulary(data)
        document.pop("checksum", None)
        files["mapping.json"] = _dumped(document | {"checksum": hash_of_vocabulary(_dumped(document))})
        return files

    return Target(place, contents(place), names, read, truth, seal)


def _dumped(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _tokenizer(folder: Path) -> Target:
    """A teacher's tokenizer.json, which is foreign and has no checksum."""
    place = make_tokenizer("wordpiece-cased", folder / "teacher")

    def read() -> object:
        return list(read_tokenizer(place, name="teacher").tokens)

    def truth(files: Mapping[str, Content]) -> object:
        tree = _last_wins(files["tokenizer.json"])
        index = dict(tree["model"]["vocab"]) | {one["content"]: one["id"] for one in tree["added_tokens"] or ()}
        tokens: list[str | None] = [None] * (max(index.values()) + 1)
        for token, place in index.items():
            tokens[place] = token
        return tokens

    return Target(place, contents(place), ("tokenizer.json",), read, truth, lambda files, _: files)


def _last_wins(data: Content) -> dict:  # type: ignore[type-arg]
    assert isinstance(data, bytes)
    tree = json.loads(data)
    assert isinstance(tree, dict)
    return tree


# --- corpora, checkpoints, configurations --------------------------------------------------------------------------


def _corpus(folder: Path) -> Target:
    """Texts are strings, the kind of column that crashes readers that do not validate."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "de.txt").write_text("\n".join(f"Zeile {n}: äöü €, {'x' * n}" for n in range(40)), encoding="utf-8")
    section = CorpusSection.model_validate({"languages": {"de": str(folder / "de.txt")}, "held_out_share": 0.2})
    place = build_corpus(section, root=folder, seed=1).folder
    files = contents(place)
    splits = ("train", "held_out")

    def read() -> object:
        corpus = open_corpus(place)
        return {
            split: {name: corpus.texts(name, split, 0, 1 << 40) for name in corpus.languages} for split in splits
        } | {"counts": {name: [corpus.info(name, split).num_texts for split in splits] for name in corpus.languages}}

    def truth(files: Mapping[str, Content]) -> object:
        languages = _json(files["corpus.json"])["languages"]
        found: dict[str, dict[str, list[str]]] = {split: {} for split in splits}
        for name, record in languages.items():
            for split in splits:
                found[split][name] = []
                for entry in record[split]["files"]:
                    data = files[entry["name"]]
                    assert isinstance(data, bytes)
                    table = pa.ipc.open_stream(data[8:]).read_all()
                    table.validate(full=True)
                    found[split][name] += table.column("text").to_pylist()
        counts = {name: [len(found[split][name]) for split in splits] for name in languages}
        return {**found, "counts": counts}

    def seal(files: Files, name: str) -> Files:
        files = dict(files)
        data = files[name]
        if name.endswith(".arrow") and isinstance(data, bytes):
            tree = _json(files["corpus.json"])
            for record in tree["languages"].values():
                for split in splits:
                    for entry in record[split]["files"]:
                        if entry["name"] == name:
                            entry |= {"num_bytes": len(data), "hash": storage.hash_bytes(data)}
            files["corpus.json"] = json.dumps(tree).encode()
        files["corpus.json"] = _sealed(_CorpusRecord, files["corpus.json"], _with_its_fingerprint)
        return files

    return Target(place, files, tuple(files), read, truth, seal)


def _with_its_fingerprint(data: bytes) -> bytes:
    tree = _json(data)
    try:
        hashes = [
            [name, one["train"]["hash"], one["held_out"]["hash"]] for name, one in sorted(tree["languages"].items())
        ]
    except (KeyError, TypeError, AttributeError):
        return data
    return json.dumps(tree | {"fingerprint": storage.hash_bytes(json.dumps(hashes).encode())}).encode()


def _checkpoint(folder: Path) -> Target:
    from orchestrator.students import checkpoint as checkpoints
    from tests.students.test_checkpoint import save

    save(folder, 7)
    place = folder / "step-00000007"

    def read() -> object:
        found = checkpoints.load(folder, 7, fingerprint="f")
        return {
            "state": [found.step, found.tokens, found.seconds, {name: list(at) for name, at in found.cursor.items()}],
            "tensors": {
                stem: {name: (str(t.dtype), list(t.shape), t.numpy().tobytes()) for name, t in sorted(tensors.items())}
                for stem, tensors in found.tensors.items()
            },
        }

    def truth(files: Mapping[str, Content]) -> object:
        state = _json(files["state.json"])
        tensors = {}
        for file in state["files"]:
            data = files[file]
            assert isinstance(data, bytes)
            (length,) = struct.unpack_from("<Q", data)
            header = json.loads(data[8 : 8 + length])
            tensors[file.removesuffix(".safetensors")] = {
                name: (
                    {"F32": "torch.float32"}.get(entry["dtype"], entry["dtype"]),
                    entry["shape"],
                    data[8 + length :][slice(*entry["data_offsets"])],
                )
                for name, entry in sorted(header.items())
                if name != "__metadata__"
            }
        return {"state": [state["step"], state["tokens"], state["seconds"], state["cursor"]], "tensors": tensors}

    def seal(files: Files, name: str) -> Files:
        files = dict(files)
        data = files[name]
        try:
            tree = _json(files["state.json"])
            if name != "state.json" and isinstance(data, bytes):
                tree["files"][name] = storage.hash_bytes(data)
            state = checkpoints._State.model_validate_json(json.dumps(tree))
        except (ForgedError, ValueError, ValidationError, KeyError, TypeError):
            return files
        files["state.json"] = state.sealed().model_dump_json(indent=1).encode()
        return files

    files = contents(place)
    return Target(place, files, tuple(files), read, truth, seal)


def _config(folder: Path) -> Target:
    folder.mkdir(parents=True, exist_ok=True)
    starter = (Path(__file__).resolve().parents[2] / "configs" / "starter.yaml").read_bytes()
    files = {"orch.yaml": yaml.safe_dump(CONFIG, sort_keys=False).encode(), "starter.yaml": starter}
    for name, data in files.items():
        (folder / name).write_bytes(data)

    def read() -> object:
        return [_read_one(name) for name in files]

    def _read_one(name: str) -> object:
        return load_config(folder / name).model_dump(mode="json")

    def truth(changed: Mapping[str, Content]) -> object:
        found = []
        for name in files:
            data = changed[name]
            assert isinstance(data, bytes)
            try:
                tree = yaml.load(data, Loader=_StockLoader)
            except yaml.YAMLError:  # libyaml and PyYAML differ a little in what they take
                tree = _StockPython(data.decode("utf-8-sig")).get_single_data()
            found.append(parse_config(tree, where="x").model_dump(mode="json"))
        return found

    return Target(folder, files, ("orch.yaml", "starter.yaml"), read, truth, lambda files, _: files)


class _StockLoader(yaml.CSafeLoader):
    """libyaml, which reads `no` as orch does."""


class _StockPython(yaml.SafeLoader):
    """PyYAML without orch's limits."""


_StockLoader.yaml_implicit_resolvers = _StockPython.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

TARGETS: dict[str, Callable[[Path], Target]] = {
    "manifest": lambda folder: _store(folder, ("manifest.json",)),
    "receipt": lambda folder: _store(folder, ("shards/000001.json",)),
    "shard": _shard,
    "mapping": _mapping,
    "config": _config,
    "corpus": _corpus,
    "checkpoint": _checkpoint,
    "tokenizer": _tokenizer,
}
