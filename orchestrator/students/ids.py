"""Teacher ids to student ids, for the three kinds of token that a masked row holds.

Shape legend: V vocabulary (T teacher's, S student's).
"""

from __future__ import annotations

import numpy as np

from orchestrator.errors import StoreError
from orchestrator.records import Array, Int32, Int64, SpecialIds

#: Knuth's multiplier: neighbouring teacher ids land far apart.
_SCATTER = np.uint64(2654435761)


class IdMap:
    """Three gathers, each int64 [V_T]: for inputs, for labels and targets, and for the random tokens of masking."""

    def __init__(self, table: Int32, *, student_special: SpecialIds, student_size: int, teacher_mask: int) -> None:
        """`table`: int32 [V_T], teacher id -> student id, -1 where none."""
        self.size = len(table)
        self.teacher_mask = teacher_mask
        self.pad = student_special.pad
        self.targets = table.astype(np.int64)
        self.inputs = np.where(table >= 0, table, student_special.unk).astype(np.int64)
        # A random token of BERT's masking stays random where the student lacks it; [UNK] would give it away.
        ordinary = np.setdiff1d(np.arange(student_size), sorted(student_special.all()))
        scattered = ordinary[np.arange(self.size, dtype=np.uint64) * _SCATTER % np.uint64(len(ordinary))]
        self.random = np.where(table >= 0, table, scattered).astype(np.int64)

    def known(self, ids: Array) -> Int64:
        """Student ids of teacher ids of any shape, int64; -1 for -1, where there is none, and for padding rows."""
        whole = ids.astype(np.int64)
        inside = (whole >= 0) & (whole < self.size)
        return np.where(inside, self.targets[np.where(inside, whole, 0)], -1)

    def check(self, ids: Array, *, where: str) -> None:
        """Raise a StoreError for ids that the table does not have: they belong to another tokenizer."""
        if ids.size and (int(ids.max()) >= self.size or int(ids.min()) < 0):
            raise StoreError(
                f"{where} holds ids outside the teacher's vocabulary of {self.size}; the vocabulary belongs to another "
                "tokenizer: run `orch build-vocab` again."
            )
