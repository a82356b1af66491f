"""The typed records that cross rooms: plain data, numpy arrays and no behaviour beyond their own consistency.

Shape legend: R rows (one masked copy of one text), N tokens of all rows, M masked positions of all rows, K kept ids,
D width. Rows are never padded here: row r owns tokens[first_token[r] : first_token[r] + num_tokens[r]].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Int16: TypeAlias = npt.NDArray[np.int16]
Int32: TypeAlias = npt.NDArray[np.int32]
Int64: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = npt.NDArray[np.generic]

#: One shard (or one live batch): table name -> column name -> array whose leading axis is the row of the table.
Tables: TypeAlias = Mapping[str, Mapping[str, Array]]

HiddenCodec: TypeAlias = Literal["fp16", "int8"]


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens of one vocabulary, by role; `pad`, `unk` and `mask` are always there."""

    pad: int
    unk: int
    mask: int
    cls: int | None = None
    sep: int | None = None

    def all(self) -> frozenset[int]:
        """Every id that is set."""
        return frozenset(i for i in (self.pad, self.unk, self.mask, self.cls, self.sep) if i is not None)


@dataclass(frozen=True)
class MaskedRows:
    """R masked rows of one language in the teacher's ids: exactly the columns of texts, tokens and masked of format 1.

    Every array is C-contiguous. `masked_token` is an index into `input_id` (0 … N-1) and ascends within a row.
    """

    row_id: Int64  # [R]
    copy: Int16  # [R]
    language: Int16  # [R] index into the manifest's list of languages
    first_token: Int64  # [R]
    num_tokens: Int32  # [R] special tokens included
    first_masked: Int64  # [R]
    num_masked: Int32  # [R]
    input_id: Int32  # [N] after masking
    masked_token: Int64  # [M]
    label_id: Int32  # [M] the id before masking

    def __len__(self) -> int:
        return len(self.row_id)


#: What a layer says of each token: its output, or what its attention's projections give. Queries and keys are taken
#: after a rotation of positions, where the architecture has one.
StateKind: TypeAlias = Literal["hidden", "query", "key", "value"]


class StateKey(NamedTuple):
    """One kind of vector of one layer; layer 0 is the embedding output, which has hidden states alone."""

    kind: StateKind
    layer: int


@dataclass(frozen=True)
class SignalRequest:
    """What objectives ask of a teacher; requests of several objectives are joined with `|`.

    Of the teacher's distribution at the masked positions, or with `at_all_tokens` at every token: the `top_k` most
    probable ids (0: none), the log-partition at `temperatures` besides 1, `draws` ids drawn at random with replacement
    (0: none), and with `head_states` what its decoder reads. `states`: vectors of every token, ascending.
    `sentence_vectors`: the mean of the last hidden states of each row.
    """

    top_k: int = 0
    temperatures: tuple[float, ...] = ()
    draws: int = 0
    head_states: bool = False
    at_all_tokens: bool = False
    states: tuple[StateKey, ...] = ()
    sentence_vectors: bool = False

    def __or__(self, other: SignalRequest) -> SignalRequest:
        return SignalRequest(
            top_k=max(self.top_k, other.top_k),
            temperatures=tuple(sorted({*self.temperatures, *other.temperatures})),
            draws=max(self.draws, other.draws),
            head_states=self.head_states or other.head_states,
            at_all_tokens=self.at_all_tokens or other.at_all_tokens,
            states=tuple(sorted({*self.states, *other.states})),
            sentence_vectors=self.sentence_vectors or other.sentence_vectors,
        )

    def covers(self, other: SignalRequest) -> bool:
        """Whether who has these signals has the `other` ones too."""
        return self | other == self

    @property
    def needs_head(self) -> bool:
        """Whether the teacher's language-model head must run."""
        return self.top_k > 0 or self.draws > 0 or self.head_states

    @property
    def needs_model(self) -> bool:
        """Whether the teacher must run at all; a tokenizer is enough for masked text alone."""
        return self.needs_head or bool(self.states) or self.sentence_vectors


@dataclass(frozen=True)
class BatchPlan:
    """How the rows of a unit are put together for the teacher; part of the fingerprint, since outputs depend on it."""

    tokens_per_batch: int
    threads: int
    dtype: Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Unit:
    """One unit of teacher work: all copies of a slice of one language's training texts become shard `index`."""

    teacher: str
    index: int
    language: str
    first_text: int
    num_texts: int


@dataclass(frozen=True)
class MetricRow:
    """One measured figure: a line of evaluation/metrics.jsonl."""

    model: str
    role: Literal["student", "teacher", "baseline"]
    language: str
    metric: str
    value: float
    n: int
    seed: int
    split: str = "held_out"
    other_language: str | None = None
    layer: int | None = None


@dataclass(frozen=True)
class TransferRow(MetricRow):
    """One figure of a model fine-tuned in one language and tested in another: a line of transfer/metrics.jsonl.

    `language` is the one of the test, `other_language` that of the labelled text; `cell` is the fingerprint of all
    that decides the figure.
    """

    task: str = ""
    mode: str = ""
    cell: str = ""
