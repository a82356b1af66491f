"""Which ids of one vocabulary a corpus needs: those that occur, and what their segmentation is made from.

V_t rows of the teacher's vocabulary, E edges (a whole and one of its parts).

A part is needed as often as any whole that is made from it. Parts are, in BPE, the two sides of the last merge (and
theirs in turn), since without them the whole is never formed; elsewhere the single characters of a piece, so that a
new word made of known characters is cut finer instead of becoming unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vocab_tools.errors import VocabularyError
from vocab_tools.read import TeacherTokenizer
from vocab_tools.specs import METASPACE, byte_alphabet, byte_pieces, template_ids

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Needs:
    """How often each id is needed, int64 [V_t]; `always` marks ids that stay whatever the corpus says."""

    need: Int64
    always: Bools
    wholes: Int64  # [E] ids
    parts: Int64  # [E]

    def kept(self, min_count: int) -> Bools:
        """Ids needed at least `min_count` times, bool [V_t]; closed: a kept whole has its parts kept."""
        return self.always | (self.need >= max(1, min_count))


def measure_needs(teacher: TeacherTokenizer, counts: npt.NDArray[np.integer]) -> Needs:
    """Spread the counts of a corpus (int [V_t], how often each id occurs) to the parts that each id is made from."""
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer) or (counts.size and counts.min() < 0):
        raise VocabularyError(f"counts of '{teacher.name}' must be one whole number, at least 0, for each of its ids")
    named = np.flatnonzero(counts)
    if beyond := [i for i in named.tolist() if i >= len(teacher.tokens) or teacher.tokens[i] is None]:
        raise VocabularyError(
            f"counts of '{teacher.name}' name id {beyond[0]}, which has no token in its tokenizer;"
            " were they counted with another tokenizer?"
        )
    need = np.zeros(len(teacher.tokens), dtype=np.int64)
    need[named] = counts[named]
    wholes, parts = _edges(teacher, named)
    spread(need, wholes, parts)
    return Needs(need=need, always=always_kept(teacher), wholes=wholes, parts=parts)


def spread(need: Int64, wholes: Int64, parts: Int64) -> None:
    """Raise `need` of each part to that of its wholes, in place, until all are satisfied (as deep as BPE's merges)."""
    while True:
        before = need.copy()
        np.maximum.at(need, parts, need[wholes])
        if np.array_equal(before, need):
            return


def drop_unsupported(kept: Bools, wholes: Int64, parts: Int64) -> Bools:
    """The kept ids whose parts are kept too, and theirs in turn."""
    kept = kept.copy()
    while True:
        broken = wholes[kept[wholes] & ~kept[parts]]
        if not len(broken):
            return kept
        kept[broken] = False


def always_kept(teacher: TeacherTokenizer) -> Bools:
    """Roles, the template's tokens, the 256 bytes, and a unigram's lowest score (the price of unknown characters)."""
    always = np.zeros(len(teacher.tokens), dtype=np.bool_)
    always[[*teacher.roles.values(), *template_ids(teacher.spec)]] = True
    model = teacher.spec["model"]
    alphabet: Mapping[str, int] = {}
    if teacher.marks == "byte-level":
        alphabet = byte_alphabet()
    elif model.get("byte_fallback"):
        alphabet = byte_pieces()
    always[[index for index, token in enumerate(teacher.tokens) if token in alphabet]] = True
    if isinstance(model["vocab"], list):
        always[int(np.argmin([score for _, score in model["vocab"]]))] = True
    return always


def _edges(teacher: TeacherTokenizer, used: Int64) -> tuple[Int64, Int64]:
    index = {token: i for i, token in enumerate(teacher.tokens) if token is not None}
    bpe = _Merges(teacher.spec["model"].get("merges", []), teacher.prefix) if teacher.family == "bpe" else None
    wholes: list[int] = []
    parts: list[int] = []
    special = {*teacher.reserved, *teacher.roles.values()}
    waiting = [i for i in used.tolist() if i not in special]
    seen = set(waiting)
    while waiting:
        whole = waiting.pop()
        token = teacher.tokens[whole]
        assert token is not None
        names = bpe.parts(token) if bpe is not None else _characters(token, teacher)
        for part in (index[name] for name in names if name in index and name != token):
            wholes.append(whole)
            parts.append(part)
            if bpe is not None and part not in seen:
                seen.add(part)
                waiting.append(part)
    return np.array(wholes, dtype=np.int64), np.array(parts, dtype=np.int64)


def _characters(token: str, teacher: TeacherTokenizer) -> set[str]:
    """Every character of a token, as it may begin a word and as it may continue one."""
    prefix = teacher.prefix
    if prefix:
        bare = token.removeprefix(prefix) or token
        return {*bare, *(prefix + character for character in bare)}
    return {*token, METASPACE} if teacher.marks == "metaspace" else set(token)


class _Merges:
    """The merges of a BPE model, asked for the last merge of a token."""

    def __init__(self, merges: Sequence[tuple[str, str]], prefix: str) -> None:
        self._prefix = prefix
        self._merges = merges

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self._merges)}

    @cached_property
    def _makers(self) -> dict[str, list[tuple[str, str]]]:
        makers: dict[str, list[tuple[str, str]]] = {}
        for left, right in self._merges:
            makers.setdefault(self._join(left, right), []).append((left, right))
        return makers

    def parts(self, token: str) -> tuple[str, ...]:
        """The two tokens that the model joins last to make `token`, or its characters where no merge makes it."""
        makers = self._makers.get(token, [])
        if len(makers) == 1:
            return makers[0]
        return self._last_merge(token) if makers else ()

    def _join(self, left: str, right: str) -> str:
        return left + (right[len(self._prefix) :] if self._prefix and right.startswith(self._prefix) else right)

    def _last_merge(self, token: str) -> tuple[str, ...]:
        """Merge the characters of the token as the model would, best rank first and leftmost among equals."""
        bare = token[len(self._prefix) :] if self._prefix and token.startswith(self._prefix) else token
        symbols = [self._prefix + character if i or bare != token else character for i, character in enumerate(bare)]
        last: tuple[str, ...] = tuple(symbols)
        while len(symbols) > 1:
            pairs = enumerate(pairwise(symbols))
            ranked = [(self._ranks[pair], place) for place, pair in pairs if pair in self._ranks]
            if not ranked:
                return tuple(symbols)  # the model never makes this token by itself; keep what it makes instead
            _, place = min(ranked)
            last = (symbols[place], symbols[place + 1])
            symbols[place : place + 2] = [self._join(*last)]
        return last
