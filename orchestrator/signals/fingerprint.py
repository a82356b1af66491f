"""What a signal store was made from, as one short digest and in clear, so that a mismatch can be named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.storage import hash_bytes

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None

_DIGEST_LENGTH = 16
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Fingerprint:
    """Everything that decides what a teacher says, and nothing of what is kept of it.

    `parts` are plain JSON, nested as deep as is convenient; the order of keys means nothing.
    """

    parts: Mapping[str, JSON]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", json.loads(_canonical(self.parts, sort_keys=False)))  # tuples become lists

    @property
    def digest(self) -> str:
        """16 hex digits of the xxh3-128 hash of the parts as canonical JSON."""
        return hash_bytes(_canonical(self.parts).encode())[:_DIGEST_LENGTH]

    def num_differences(self, other: Fingerprint) -> int:
        """How many values differ: a measure of which of several stores is the nearest."""
        return sum(1 for _ in _differences(self.parts, other.parts))

    def difference(self, other: Fingerprint) -> str:
        """What sets this fingerprint, of a store, apart from `other`, of a configuration; empty when they are equal.

        Example: `was made with corpus max_length 128, the configuration asks 64`.
        """
        for path, ours, theirs in _differences(self.parts, other.parts):
            made = f"without {path}" if ours is None else f"with {path} {_shortened(ours)}"
            asks = f"no {path}" if theirs is None else _shortened(theirs)
            return f"was made {made}, the configuration asks {asks}"
        return ""


def _canonical(value: JSON, *, sort_keys: bool = True) -> str:
    return json.dumps(value, sort_keys=sort_keys, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _differences(ours: JSON, theirs: JSON, path: str = "") -> Iterator[tuple[str, str | None, str | None]]:
    """(path, our value, their value) of every leaf that differs, as JSON text; None where there is no such key."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*ours, *theirs]):
            inner = f"{path} {key}".lstrip()
            if key in ours and key in theirs:
                yield from _differences(ours[key], theirs[key], inner)
            else:
                left, right = (_canonical(side[key]) if key in side else None for side in (ours, theirs))
                yield inner, left, right
    elif _canonical(ours) != _canonical(theirs):
        yield path, _canonical(ours), _canonical(theirs)


def _shortened(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
