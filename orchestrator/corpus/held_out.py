"""Keep held-out text out of training text, by a hash of each text, whatever its order and however often it occurs."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import xxhash


class HeldOut:
    """The texts of one language that no student sees, and the filter that keeps them out of its training text.

    Either they are given (`collect`), or set aside while training text streams through `train_only`: those with the
    smallest hashes, at most `max_texts` and no more than about `share` of all, but always one. Which ones depends on
    the texts and the seed alone, and a duplicate has the hash of its original, so that it cannot slip into training.
    """

    def __init__(self, *, seed: int, share: float, max_texts: int) -> None:
        self.num_dropped = 0
        self._seed = seed & (1 << 64) - 1
        self._threshold = int(share * 2**64)
        self._max_texts = max_texts
        self._keys: set[int] = set()
        self._heap: list[tuple[int, int, str]] = []  # (−hash, order of arrival, text): the largest hash on top

    def collect(self, texts: Iterator[str]) -> Iterator[str]:
        """Pass on `texts`, which are held out, and remember them."""
        for text in texts:
            self._keys.add(self._key(text))
            yield text

    def train_only(self, texts: Iterator[str]) -> Iterator[str]:
        """Pass on the texts that are not held out; count in `num_dropped` those left out because they are."""
        for order, text in enumerate(texts):
            key = self._key(text)
            if key in self._keys:
                self.num_dropped += 1
            elif self._max_texts == 0:
                yield text
            else:
                yield from self._offer(key, order, text)

    def set_aside(self) -> Iterator[str]:
        """The texts kept back, in the order of their first occurrence; complete once `train_only` is exhausted."""
        return (text for _, _, text in sorted(self._heap, key=lambda entry: entry[1]))

    def _offer(self, key: int, order: int, text: str) -> Iterator[str]:
        """Keep the text back for now; yield the one that has to give way for it, often itself."""
        heapq.heappush(self._heap, (-key, order, text))
        self._keys.add(key)
        while len(self._heap) > 1 and (len(self._heap) > self._max_texts or -self._heap[0][0] >= self._threshold):
            negative_key, _, released = heapq.heappop(self._heap)
            self._keys.remove(-negative_key)
            yield released

    def _key(self, text: str) -> int:
        return xxhash.xxh3_64_intdigest(text.encode(), seed=self._seed)
