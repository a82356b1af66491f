"""How often each of a teacher's ids occurs in the text of a store, before masking."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from orchestrator.records import Int64
from orchestrator.signals.store import Store


def token_counts(store: Store, languages: Collection[str], *, size: int) -> Int64:
    """int64 [size]: occurrences of each id in the text of `languages`, the masked tokens under their true id.

    `size` is the teacher's vocabulary. Every masked copy counts: those of R copies are R times the counts of the text.
    """
    counts = np.zeros(size, np.int64)
    for unit in store.units:
        if unit.language not in languages:
            continue
        tables = store.shard(unit.index, ["tokens", "masked"])
        shown = tables["tokens"]["input_id"]
        counts += np.bincount(shown, minlength=size)
        counts -= np.bincount(shown[tables["masked"]["token"]], minlength=size)
        counts += np.bincount(tables["masked"]["label_id"], minlength=size)
    return counts
