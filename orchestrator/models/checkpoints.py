"""Checkpoints as files: where they lie, what they are, and a hash of their content; no torch, no weights read."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from orchestrator.errors import DataError
from orchestrator.models.architectures import ARCHITECTURES
from orchestrator.models.quiet import quiet_hub
from orchestrator.storage import hash_bytes, hash_file, parse_json, read_bytes

#: Name of a weight -> its shape.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_WEIGHT_PATTERNS = ("config.json", "*.safetensors", "*.safetensors.index.json")

#: Files that a tokenizer may consist of; one of the vocabularies among them is always there.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)

_MAX_JSON_BYTES = 64 << 20
_MAX_HEADER_BYTES = 100 << 20  # safetensors' own limit
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint is, as its config.json and the headers of its weight files say."""

    architecture: str  # `model_type` of config.json
    depth: int
    width: int
    heads: int
    vocab_size: int
    has_head: bool
    num_parameters: int
    embedding_width: int  # of the word embeddings, and of what the decoder reads
    windows: tuple[int | None, ...]  # of each layer: how many positions apart tokens may look at each other; None: all


def describe_checkpoint(path: str, *, revision: str | None = None) -> CheckpointInfo:
    """Describe a checkpoint without loading it.

    Args:
        path: a folder, or a name on the hub, of which config.json and the weights' headers are fetched when not cached.
        revision: branch, tag or commit on the hub.

    Raises:
        DataError: there is no such checkpoint, it has no safetensors, or its architecture is not supported.
    """
    folder = _find_local(path, revision=revision)
    if folder is not None and _weight_files(folder):
        config, shapes = read_config(folder), _read_shapes(folder)
    elif Path(path).is_dir():
        raise _no_weights(path)
    else:
        config, shapes = _fetch_description(path, revision)
    model_type = str(config.get("model_type"))
    if model_type not in ARCHITECTURES:
        raise DataError(
            f"{path}: config.json says model_type '{model_type}', which is not supported;"
            f" supported are {', '.join(sorted(ARCHITECTURES))}"
        )
    architecture = ARCHITECTURES[model_type]
    keys = architecture.config
    return CheckpointInfo(
        architecture=model_type,
        depth=_number(config, keys.depth, path),
        width=_number(config, keys.width, path),
        heads=_number(config, keys.heads, path),
        vocab_size=_number(config, "vocab_size", path),
        has_head=f"{architecture.head.dense}.weight" in shapes,
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        embedding_width=_number(config, "embedding_size" if "embedding_size" in config else keys.width, path),
        windows=_windows(config, depth=_number(config, keys.depth, path)),
    )


def resolve_folder(
    path: str, *, revision: str | None, patterns: Iterable[str], is_whole: Callable[[Path], bool] | None = None
) -> Path:
    """`path` itself when it is a folder, else the hub's snapshot of it.

    Args:
        path: a folder, or a name on the hub.
        revision: branch, tag or commit on the hub.
        patterns: the files that are fetched when they are not cached.
        is_whole: whether a cached snapshot has what is needed; None: it has a file that matches.

    Raises:
        DataError: `path` is neither a folder nor a name that the hub knows and can deliver.
    """
    folder, wanted = _find_local(path, revision=revision), list(patterns)
    if folder is not None:
        whole = any(True for p in wanted for _ in folder.glob(p)) if is_whole is None else is_whole(folder)
        if whole or Path(path).is_dir():
            return folder
    from huggingface_hub import snapshot_download

    try:
        with quiet_hub():
            return Path(snapshot_download(path, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise _unreachable(path, revision) from error


def weights_folder(path: str, *, revision: str | None = None) -> Path:
    """The folder with config.json and safetensors: `path` itself, or the hub's snapshot, fetched if it is not cached.

    Raises:
        DataError: `path` is no folder and no name on the hub, or there are no safetensors.
    """
    folder = resolve_folder(path, revision=revision, patterns=_WEIGHT_PATTERNS, is_whole=_has_weights)
    if not _weight_files(folder):
        raise _no_weights(path)
    return folder


def tokenizer_folder(path: str, *, revision: str | None = None) -> Path:
    """The folder with the tokenizer's files, likewise; DataError when it has no vocabulary."""
    patterns = ("config.json", *TOKENIZER_FILES)
    folder = resolve_folder(path, revision=revision, patterns=patterns, is_whole=_has_vocabulary)
    if not _has_vocabulary(folder):
        raise DataError(f"{path}: no tokenizer is there; expected tokenizer.json or vocab.txt in that folder")
    return folder


def weights_hash(path: str, *, revision: str | None = None) -> str:
    """xxh3-128 (32 hex digits) over config.json and every safetensors file; DataError when they are missing."""
    folder = weights_folder(path, revision=revision)
    return _hash_files([folder / "config.json", *_weight_files(folder)])


def tokenizer_hash(path: str, *, revision: str | None = None) -> str:
    """xxh3-128 (32 hex digits) over the tokenizer's files; DataError when there is none."""
    folder = tokenizer_folder(path, revision=revision)
    return _hash_files(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


def read_config(folder: Path) -> dict[str, object]:
    """config.json as a dictionary; DataError when it is not there or no JSON object."""
    return _read_json(folder / "config.json", "every checkpoint has one beside its weights")


def _find_local(path: str, *, revision: str | None) -> Path | None:
    """`path` when it is a folder, else the hub's snapshot of it when one is cached, whole or not, else None."""
    if Path(path).is_dir():
        return Path(path)
    if Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1:
        raise DataError(f"{path}: there is no such folder; give a folder with a model, or its name on the hub")
    from huggingface_hub import snapshot_download

    try:
        with quiet_hub():
            return Path(snapshot_download(path, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def _has_weights(folder: Path) -> bool:
    files = _weight_files(folder)
    return bool(files) and all(file.is_file() for file in (folder / "config.json", *files))


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARIES)


def _hash_files(files: Iterable[Path]) -> str:
    lines = (f"{file.name} {hash_file(file)}\n" for file in sorted(files))
    return hash_bytes("".join(lines).encode())


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that loading reads: the single one, else those that the index names."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    weight_map = _read_json(index, "it lists the weights of each file").get("weight_map")
    if not isinstance(weight_map, dict):
        raise DataError(f"{index} has no 'weight_map'; fetch the checkpoint again")
    names = sorted(set(map(str, weight_map.values())))
    strange = next((name for name in names if not _SHARD_NAME.fullmatch(name)), None)
    if strange is not None:
        raise DataError(
            f"{index} names the file '{strange[:80]}', expected were .safetensors files beside it; fetch the "
            "checkpoint again"
        )
    return [folder / name for name in names]


def _read_shapes(folder: Path) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(folder):
        try:
            with file.open("rb") as stream:
                (size,) = struct.unpack("<Q", stream.read(8))
                header = parse_json(stream.read(min(size, _MAX_HEADER_BYTES)))
            if not isinstance(header, dict):
                raise ValueError("its header is no JSON object")
            shapes |= {name: _shape(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise DataError(
                f"{file} is not a readable safetensors file; fetch or export the checkpoint again"
            ) from error
    return shapes


def _shape(found: object) -> tuple[int, ...]:
    sizes = tuple(size for size in found if type(size) is int and size >= 0) if isinstance(found, list) else ()
    if not isinstance(found, list) or len(sizes) != len(found):
        raise ValueError(f"{found!r:.80} is no shape")
    return sizes


def _fetch_description(path: str, revision: str | None) -> tuple[dict[str, object], Shapes]:
    from huggingface_hub import get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        with quiet_hub():
            config = Path(hf_hub_download(path, "config.json", revision=revision))
            metadata = get_safetensors_metadata(path, revision=revision)
    except NotASafetensorsRepoError as error:
        raise _no_weights(path) from error
    except (OSError, ValueError) as error:
        raise _unreachable(path, revision) from error
    shapes = {
        name: tuple(tensor.shape) for file in metadata.files_metadata.values() for name, tensor in file.tensors.items()
    }
    return read_config(config.parent), shapes


def _read_json(file: Path, purpose: str) -> dict[str, object]:
    if not file.is_file():
        raise DataError(f"{file} is missing; {purpose}")
    try:
        content = parse_json(read_bytes(file, max_bytes=_MAX_JSON_BYTES))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON; fetch the checkpoint again") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no JSON object; fetch the checkpoint again")
    return content


def _windows(config: Mapping[str, object], *, depth: int) -> tuple[int | None, ...]:
    """Half of ModernBERT's `local_attention` where a layer is local; other architectures have no such key."""
    reach = config.get("local_attention")
    if not isinstance(reach, int):
        return (None,) * depth
    kinds = config.get("layer_types")
    if not isinstance(kinds, list):
        every = config.get("global_attn_every_n_layers")
        step = every if isinstance(every, int) and every > 0 else 3
        kinds = ["sliding_attention" if layer % step else "full_attention" for layer in range(depth)]
    return tuple(reach // 2 if kind == "sliding_attention" else None for kind in kinds[:depth])


def _number(config: Mapping[str, object], key: str, path: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise DataError(f"{path}: config.json has {key} = {value!r}, expected a positive number")
    return value


def _no_weights(path: str) -> DataError:
    return DataError(
        f"{path} has no safetensors weights (model.safetensors); load the model with transformers and save it again"
        " with save_pretrained"
    )


def _unreachable(path: str, revision: str | None) -> DataError:
    at = f" at revision '{revision}'" if revision is not None else ""
    return DataError(
        f"'{path}'{at} is neither a folder nor a model that the hub delivers; check the name, the revision and the"
        " network"
    )
