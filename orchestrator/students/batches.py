"""Batches for one student and one language: rows gathered from the tables of units, ids in the student's vocabulary.

Shape legend: B rows, L tokens of the longest row, N tokens without padding, M masked positions, P positions of which
the teacher's distribution is known, K kept ids, V vocabulary (T teacher's, S student's), D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import StoreError
from orchestrator.records import Array, Int64, SignalRequest, StateKey
from orchestrator.signals.codecs import decode_hidden
from orchestrator.signals.draws import decode_draws, first_drawn
from orchestrator.signals.schema import (
    ROW_TABLES,
    drawn_table,
    draws_table,
    head_states_table,
    partition_table,
    rows_of,
    state_table,
    topk_table,
)
from orchestrator.signals.topk import decode_topk
from orchestrator.students.batch import Batch, TeacherTargets
from orchestrator.students.ids import IdMap
from orchestrator.students.rows import Window, index_rows
from orchestrator.students.source import Asked, Source

#: Columns of some rows of some units, one after the other: table -> column -> array.
_Gathered = Mapping[str, Mapping[str, Array]]


class BatchReader:
    """Gathers any rows of a window of one language; the same rows of the same units always give the same batch.

    Every array of a batch is a copy: the tables cannot be written to, and torch would not know.
    """

    def __init__(self, source: Source, language: str, *, ids: IdMap, request: SignalRequest) -> None:
        """`request`: what the student reads, which may be less than the source has."""
        if not source.request.covers(request):
            raise StoreError(
                f"{source.folder} lacks signals that the objectives need ({request}); run `orch precompute-teacher`."
            )
        self.language, self.request, self.sizes = language, request, source.sizes(language)
        self._source, self._ids = source, ids
        self._names = _Names.of(request, stored=source.request)
        self._checked: set[int] = set()

    def ask(self, unit: int) -> Asked:
        """Ask for what the student reads of a unit; returns at once."""
        return self._source.ask(unit, (*ROW_TABLES, *self._names.all()))

    def open(self, units: Sequence[Asked]) -> Window:
        """The window of these units, waited for; StoreError when their ids belong to another tokenizer."""
        shards = {asked.unit: asked.tables() for asked in units}
        for unit in shards.keys() - self._checked:
            where = f"{self._source.folder}, shard {unit}"
            self._ids.check(shards[unit]["tokens"]["input_id"], where=where)
            self._ids.check(shards[unit]["masked"]["label_id"], where=where)
            self._checked.add(unit)
        return Window(index_rows(shards), shards)

    def batch(self, window: Window, rows: Int64) -> Batch:
        """The batch of these rows (ordered by unit, which no loss depends on)."""
        index = window.rows
        rows = rows[np.argsort(index.shard[rows], kind="stable")]
        parts = [self._gather(window, unit, rows[index.shard[rows] == unit]) for unit in np.unique(index.shard[rows])]
        found = {
            table: {name: _join([part[table][name] for part in parts]) for name in parts[0][table]}
            for table in parts[0]
        }
        lengths = index.num_tokens[rows].astype(np.int64)
        longest = int(lengths.max())
        first_tokens = np.cumsum(lengths) - lengths
        token_positions = _ranges(np.arange(len(rows)) * longest, lengths)
        input_id, label = found["tokens"]["input_id"], found["masked"]["label_id"]
        # counted within the row where it was gathered
        masked_tokens = found["masked"]["token"] + np.repeat(first_tokens, index.num_masked[rows])

        student_ids = self._ids.inputs[input_id]
        shown = input_id[masked_tokens]
        is_random = (shown != label) & (shown != self._ids.teacher_mask)
        student_ids[masked_tokens[is_random]] = self._ids.random[shown[is_random]]
        padded = np.full(len(rows) * longest, self._ids.pad, np.int64)
        padded[token_positions] = student_ids
        attention = np.zeros(len(rows) * longest, np.int64)
        attention[token_positions] = 1

        return Batch(
            language=self.language,
            input_ids=torch.from_numpy(padded.reshape(len(rows), longest)),
            attention_mask=torch.from_numpy(attention.reshape(len(rows), longest)),
            token_positions=torch.from_numpy(token_positions),
            first_tokens=torch.from_numpy(first_tokens),
            masked_positions=torch.from_numpy(token_positions[masked_tokens]),
            masked_tokens=torch.from_numpy(masked_tokens),
            labels=torch.from_numpy(self._ids.targets[label]),
            teacher_ids=torch.from_numpy(input_id.astype(np.int64)),
            known_ids=torch.from_numpy(self._ids.targets[input_id]),
            at_all_tokens=self.request.at_all_tokens,
            targets=self._targets(found, num_positions=len(input_id if self.request.at_all_tokens else label)),
            states={key: self._states(found[table]) for key, table in self._names.states.items()},
        )

    def _gather(self, window: Window, unit: int, rows: Int64) -> dict[str, dict[str, Array]]:
        """What the student reads of rows of one unit; masked tokens are counted within their rows."""
        index, tables = window.rows, window.shards[int(unit)]
        num_masked = index.num_masked[rows].astype(np.int64)
        tokens = _ranges(index.first_token[rows], index.num_tokens[rows].astype(np.int64))
        masked = _ranges(index.first_masked[rows], num_masked)
        token = tables["masked"]["token"][masked]
        found: dict[str, dict[str, Array]] = {
            "tokens": {"input_id": tables["tokens"]["input_id"][tokens]},
            "masked": {
                "label_id": tables["masked"]["label_id"][masked],
                "token": token - np.repeat(index.first_token[rows], num_masked),
            },
        }
        for table in self._names.all():
            if rows_of(table) == "drawn":
                continue
            # a distribution that is stored of every token is read where this student compares it
            is_everywhere = self.request.at_all_tokens or table in self._names.states.values()
            places = masked if rows_of(table) == "masked" else tokens if is_everywhere else token
            found[table] = {name: column[places] for name, column in tables[table].items()}
            if table == self._names.draws:
                distinct = tables[table]["distinct"]
                drawn = _ranges(first_drawn(distinct)[places], distinct[places].astype(np.int64))
                found[self._names.drawn] = {"code": tables[self._names.drawn]["code"][drawn]}
        return found

    def _targets(self, found: _Gathered, *, num_positions: int) -> TeacherTargets:
        names = self._names
        ids, log_probs = np.zeros((num_positions, 0), np.int64), np.zeros((num_positions, 0), np.float32)
        drawn, counts = ids, ids
        states = torch.zeros(num_positions, 0)
        if names.topk:
            ids, log_probs = decode_topk(found[names.topk], self.request.top_k)
            ids = self._ids.known(ids)
        if names.draws:
            codes = found[names.drawn]["code"]
            drawn, counts = decode_draws(found[names.draws]["distinct"], codes, draws=names.num_draws)
            drawn = self._ids.known(drawn)
        if names.head_states:
            states = torch.from_numpy(decode_hidden(found[names.head_states], "fp16"))
        return TeacherTargets(
            topk_ids=torch.from_numpy(ids),
            topk_logprobs=torch.from_numpy(log_probs),
            drawn_ids=torch.from_numpy(drawn),
            drawn_counts=torch.from_numpy(counts),
            head_states=states,
            log_partition={
                temperature: torch.from_numpy(found[table]["logsumexp"].astype(np.float32))
                for temperature, table in names.partitions.items()
            },
        )

    def _states(self, columns: Mapping[str, Array]) -> Tensor:
        return torch.from_numpy(decode_hidden(columns, self._source.codec))


@dataclass(frozen=True)
class _Names:
    """The tables of a source that a request reads; empty where it reads none."""

    topk: str
    partitions: Mapping[float, str]
    draws: str
    drawn: str
    num_draws: int
    head_states: str
    states: Mapping[StateKey, str]

    @classmethod
    def of(cls, request: SignalRequest, *, stored: SignalRequest) -> _Names:
        temperatures = (1.0, *request.temperatures) if request.temperatures else ()
        return cls(
            topk=topk_table(stored) if request.top_k else "",
            partitions={temperature: partition_table(stored, temperature) for temperature in temperatures},
            draws=draws_table(stored) if request.draws else "",
            drawn=drawn_table(stored) if request.draws else "",
            num_draws=stored.draws,
            head_states=head_states_table(stored) if request.head_states else "",
            states={key: state_table(key) for key in request.states},
        )

    def all(self) -> list[str]:
        """Every table that is read."""
        named = [self.topk, *self.partitions.values(), self.draws, self.drawn, self.head_states, *self.states.values()]
        return [name for name in named if name]


def _ranges(starts: Int64, lengths: Int64) -> Int64:
    """The concatenation of arange(start, start + length), without a loop."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(int(ends[-1]) if len(ends) else 0)


def _join(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
