"""Ways to damage or forge a file: its bytes, the tree of a JSON document, or what stands in its place."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Random: TypeAlias = np.random.Generator


@dataclass(frozen=True)
class Node:
    """What stands in the place of a file: nothing, a folder, a pipe, or a link to `target`."""

    kind: Literal["missing", "folder", "pipe", "link"]
    target: str = ""


_NUMBERS = (
    0,
    1,
    -1,
    127,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
)
_WORDS = (
    "",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/../../b",
    "maps/../../../x",
    "tokens\0.arrow",
    "x" * 70_000,
    "<script>alert(1)</script>",
    "\ud7ff\u202e\x1b[31m",
    "0" * 32,
    "NaN",
    "__class__",
    "en",
)
_LINKS = ("/etc/passwd", "/dev/zero", "/dev/null", "/proc/self/environ", "/nowhere", ".", "..")


def change_bytes(data: bytes, random: Random) -> bytes:
    """One to three damages that know nothing of the format but where numbers tend to lie."""
    for _ in range(int(random.integers(1, 4))):
        data = _pick(_BYTES, random)(data, random)
    return data


def change_tree(text: bytes, random: Random) -> bytes:
    """One to three values, keys or lists of a JSON document, written as before."""
    tree = json.loads(text)
    for _ in range(int(random.integers(1, 4))):
        tree = _changed(tree, random)
    if random.random() < 0.03:
        return b'{"format":' + b"[" * 100_000
    indent, separators = (1, None) if b"\n" in text else (None, (",", ":"))
    data = json.dumps(tree, indent=indent, separators=separators, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return _with_a_key_twice(data, random) if random.random() < 0.08 else data


def other_node(random: Random, others: list[str]) -> Node:
    """Something that is no file of its own."""
    kind = _pick(("missing", "folder", "pipe", "link", "link"), random)
    return Node(kind, _pick((*_LINKS, *others), random) if kind == "link" else "")


def _flip(data: bytes, random: Random) -> bytes:
    at = int(random.integers(max(1, len(data))))
    return data[:at] + bytes([data[at] ^ (1 << int(random.integers(8)))]) + data[at + 1 :] if data else data


def _overwrite(data: bytes, random: Random) -> bytes:
    """An extreme number of 1, 2, 4 or 8 bytes at a place of that alignment."""
    width = int(_pick((1, 2, 4, 4, 8, 8), random))
    if len(data) < width:
        return data
    at = int(random.integers(len(data) // width)) * width
    number = _pick(_NUMBERS, random) % (1 << 8 * width)
    return data[:at] + number.to_bytes(width, "little") + data[at + width :]


def _nudge(data: bytes, random: Random) -> bytes:
    """A number of 4 bytes a little larger or smaller: lengths, counts, offsets."""
    if len(data) < 4:
        return data
    at = int(random.integers(len(data) // 4)) * 4
    (number,) = struct.unpack_from("<I", data, at)
    near = (number + int(_pick((-8, -1, 1, 8, 64), random))) % (1 << 32)
    return data[:at] + near.to_bytes(4, "little") + data[at + 4 :]


def _insert(data: bytes, random: Random) -> bytes:
    at = int(random.integers(len(data) + 1))
    return data[:at] + random.bytes(int(random.integers(1, 33))) + data[at:]


def _delete(data: bytes, random: Random) -> bytes:
    at = int(random.integers(len(data) + 1))
    return data[:at] + data[at + int(random.integers(1, 65)) :]


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(len(data) + 1))]


def _copy(data: bytes, random: Random) -> bytes:
    """A stretch over another, as a lost block shows that of another file."""
    source, target = (int(random.integers(len(data) + 1)) for _ in range(2))
    length = int(random.integers(1, 129))
    return data[:target] + data[source : source + length] + data[target + length :]


def _append(data: bytes, random: Random) -> bytes:
    return data + random.bytes(int(random.integers(1, 65)))


_BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _nudge,
    _insert,
    _delete,
    _truncate,
    _copy,
    _append,
)


def _changed(tree: object, random: Random) -> object:
    """One place of the tree, found by going down at random, gets another value or another key."""
    if isinstance(tree, dict) and tree and random.random() < 0.9:
        key = _pick(tuple(tree), random)
        match int(random.integers(12)):
            case 0:
                return {other: value for other, value in tree.items() if other != key}
            case 1:
                name = _pick(_WORDS, random)
                return {name if other == key else other: value for other, value in tree.items()}
            case 2:
                return tree | {_pick(_WORDS, random): tree[key]}
            case 3:
                return tree | {key: tree[_pick(tuple(tree), random)]}
            case _:
                return tree | {key: _changed(tree[key], random)}
    if isinstance(tree, list) and tree and random.random() < 0.8:
        at = int(random.integers(len(tree)))
        match int(random.integers(8)):
            case 0:
                return tree[:at] + tree[at + 1 :]
            case 1:
                return [*tree, tree[at]]
            case 2:
                return tree[::-1]
            case _:
                return [*tree[:at], _changed(tree[at], random), *tree[at + 1 :]]
    return _value(tree, random)


def _value(old: object, random: Random) -> object:
    match int(random.integers(8)):
        case 0 | 1:
            return _pick(_NUMBERS, random)
        case 2:
            return _pick(_WORDS, random)
        case 3:
            return _pick((None, True, False, float("nan"), float("inf"), 1e308, -0.5, 10**4000), random)
        case 4:
            return _pick(([], {}, [old], {"a": old}, str(old)), random)
        case 5 if isinstance(old, int):
            return old + int(_pick((-1, 1), random))
        case 6:
            nested: object = old
            for _ in range(int(_pick((10, 150), random))):
                nested = [nested]
            return nested
        case _:
            return old[::-1] if isinstance(old, str) else _pick(_NUMBERS, random)


def _with_a_key_twice(data: bytes, random: Random) -> bytes:
    found = [*re.finditer(rb'"[^"\n]{1,80}": ?(?:"[^"\n]*"|[0-9]+)', data)]
    if not found:
        return data
    one, place = found[int(random.integers(len(found)))], found[int(random.integers(len(found)))]
    return data[: place.start()] + one.group() + b"," + data[place.start() :]


def _pick(choices: tuple, random: Random):  # type: ignore[no-untyped-def,type-arg]
    return choices[int(random.integers(len(choices)))]
