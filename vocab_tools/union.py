"""Several vocabularies become one, deterministically: canonical tokens in, student ids out.

V student ids, V_t ids of one teacher.

Order of student ids: the special tokens by role (pad, unk, cls, sep, mask), then the tokens of the teacher whose name
comes first in the alphabet, by its ids, then what the next teacher adds, and so on. Arguments may come in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vocab_tools.canonical import ROLES, CanonicalToken, display, role_name
from vocab_tools.errors import VocabularyError
from vocab_tools.trim import Bools, Needs, drop_unsupported, spread

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Union:
    """`tokens` are the canonical tokens by student id; `maps` the student ids by teacher id, int32 [V_t], or -1."""

    tokens: tuple[CanonicalToken, ...]
    names: tuple[str, ...]
    maps: Mapping[str, Int32]


def unite(
    identities: Mapping[str, Sequence[CanonicalToken | None]],
    *,
    kept: Mapping[str, Bools],
    needs: Mapping[str, Needs],
    max_size: int | None = None,
) -> Union:
    """The union of the kept tokens of every teacher; at most `max_size` of them, those that `needs` says most often.

    `identities` gives the canonical token of each id [V_t]; `kept` is bool [V_t]. With `max_size` every teacher must
    have needs; what is dropped then is dropped together with all that is made from it.
    """
    ids: dict[CanonicalToken, int] = {CanonicalToken(role_name(role), False, "role"): i for i, role in enumerate(ROLES)}
    maps: dict[str, Int32] = {}
    for name in sorted(identities):
        table = np.full(len(identities[name]), -1, dtype=np.int32)
        mask = kept[name]
        for index, identity in enumerate(identities[name]):
            if identity is not None and mask[index]:
                table[index] = ids.setdefault(identity, len(ids))
        maps[name] = table
    tokens = list(ids)
    if max_size is not None and len(tokens) > max_size:
        renumbered = _most_needed(len(tokens), maps, needs, max_size)
        tokens = [token for token, new in zip(tokens, renumbered.tolist(), strict=True) if new >= 0]
        maps = {name: np.where(table >= 0, renumbered[table], -1).astype(np.int32) for name, table in maps.items()}
    return Union(tokens=tuple(tokens), names=_unique_names(tokens), maps=maps)


def _most_needed(size: int, maps: Mapping[str, Int32], needs: Mapping[str, Needs], max_size: int) -> Int32:
    """New id of each of `size` tokens, -1 for those beyond `max_size`; the order stays."""
    total = np.zeros(size, dtype=np.int64)
    always = np.zeros(size, dtype=np.bool_)
    always[: len(ROLES)] = True
    edges: list[npt.NDArray[np.int64]] = []
    for name, table in maps.items():
        of_teacher, mapped = needs[name], table >= 0
        np.add.at(total, table[mapped], of_teacher.need[mapped])
        always[table[mapped & of_teacher.always]] = True
        pairs = np.stack([table[of_teacher.wholes], table[of_teacher.parts]]).astype(np.int64)
        edges.append(pairs[:, (pairs >= 0).all(axis=0)])
    if always.sum() > max_size:
        raise VocabularyError(f"max_size {max_size} is too small: {int(always.sum())} tokens must always stay")
    wholes, parts = np.concatenate(edges, axis=1)
    spread(total, wholes, parts)
    total[always] = np.iinfo(np.int64).max
    kept = np.zeros(size, dtype=np.bool_)
    kept[np.argsort(-total, kind="stable")[:max_size]] = True
    kept = drop_unsupported(kept, wholes, parts)
    renumbered = np.cumsum(kept, dtype=np.int32) - 1
    renumbered[~kept] = -1
    return renumbered.astype(np.int32)


def _unique_names(tokens: Sequence[CanonicalToken]) -> tuple[str, ...]:
    """What vocab.json calls each token; a name already taken gets `@owner`, and a number if that is taken too."""
    taken: dict[str, None] = {}
    for token in tokens:
        name = display(token)
        if name in taken:
            name = stem = f"{name}@{token.owner or 'text'}"
            number = 2
            while name in taken:
                name, number = f"{stem}{number}", number + 1
        taken[name] = None
    return tuple(taken)
