"""Batches for one student and one language: rows gathered from shards, ids in the student's vocabulary.

Shape legend: B rows, L tokens of the longest row, N tokens without padding, M masked positions, K kept ids,
V vocabulary (T teacher's, S student's), D width. Flat positions index the [B·L] tokens of the padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.errors import StoreError
from orchestrator.records import Array, HiddenCodec, Int64, SignalRequest
from orchestrator.signals.codecs import decode_hidden
from orchestrator.signals.schema import hidden_table, logsumexp_column
from orchestrator.students.ids import IdMap
from orchestrator.students.rows import Window, index_rows
from orchestrator.students.source import Asked, Source


@dataclass(frozen=True)
class TeacherTargets:
    """What the teacher said at M masked positions, in student ids; -1 where the student has no such id."""

    topk_ids: Tensor  # int64 [M, K]
    topk_logprobs: Tensor  # float32 [M, K] at temperature 1, over the teacher's full vocabulary
    log_partition: dict[float, Tensor]  # temperature -> float32 [M], log Σ exp(z / T) of the teacher's logits z


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one language."""

    language: str
    input_ids: Tensor  # int64 [B, L], student ids, padded on the right
    attention_mask: Tensor  # int64 [B, L]
    token_positions: Tensor  # int64 [N] flat positions of the tokens that are no padding
    masked_positions: Tensor  # int64 [M] flat positions
    labels: Tensor  # int64 [M], -1 where the student's vocabulary lacks the token
    targets: TeacherTargets | None
    hidden: dict[int, Tensor]  # teacher layer -> float32 [N, D_T]

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return len(self.token_positions)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        if device.type == "cpu":
            return self
        targets = self.targets and TeacherTargets(
            topk_ids=self.targets.topk_ids.to(device, non_blocking=True),
            topk_logprobs=self.targets.topk_logprobs.to(device, non_blocking=True),
            log_partition={t: z.to(device, non_blocking=True) for t, z in self.targets.log_partition.items()},
        )
        return Batch(
            language=self.language,
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            token_positions=self.token_positions.to(device, non_blocking=True),
            masked_positions=self.masked_positions.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            targets=targets,
            hidden={layer: values.to(device, non_blocking=True) for layer, values in self.hidden.items()},
        )


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
        self._source, self._ids, self._codec = source, ids, source.codec
        self._tables = ("texts", "tokens", "masked", *map(hidden_table, request.hidden_layers))
        self._checked: set[int] = set()

    def ask(self, unit: int) -> Asked:
        """Ask for what the student reads of a unit; returns at once."""
        return self._source.ask(unit, self._tables)

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
        parts = [
            self._gather(window, shard, rows[index.shard[rows] == shard]) for shard in np.unique(index.shard[rows])
        ]
        lengths = index.num_tokens[rows].astype(np.int64)
        num_masked = index.num_masked[rows].astype(np.int64)
        longest = int(lengths.max())
        token_positions = _ranges(np.arange(len(rows)) * longest, lengths)

        label = _join(parts, "label_id")
        input_id = _join(parts, "input_id")
        masked_token = _join(parts, "masked_token")  # counted within its row
        row_start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        masked_in_tokens = masked_token + np.repeat(row_start, num_masked)

        student_ids = self._ids.inputs[input_id]
        shown = input_id[masked_in_tokens]
        is_random = (shown != label) & (shown != self._ids.teacher_mask)
        student_ids[masked_in_tokens[is_random]] = self._ids.random[shown[is_random]]
        padded = np.full(len(rows) * longest, self._ids.pad, np.int64)
        padded[token_positions] = student_ids
        attention = np.zeros(len(rows) * longest, np.int64)
        attention[token_positions] = 1

        return Batch(
            language=self.language,
            input_ids=torch.from_numpy(padded.reshape(len(rows), longest)),
            attention_mask=torch.from_numpy(attention.reshape(len(rows), longest)),
            token_positions=torch.from_numpy(token_positions),
            masked_positions=torch.from_numpy(token_positions[masked_in_tokens]),
            labels=torch.from_numpy(self._ids.targets[label]),
            targets=self._targets(parts),
            hidden={layer: _hidden(parts, layer, self._codec) for layer in self.request.hidden_layers},
        )

    def _gather(self, window: Window, shard: int, rows: Int64) -> dict[str, Array]:
        index, tables = window.rows, window.shards[int(shard)]
        tokens = _ranges(index.first_token[rows], index.num_tokens[rows].astype(np.int64))
        num_masked = index.num_masked[rows].astype(np.int64)
        masked = _ranges(index.first_masked[rows], num_masked)
        part: dict[str, Array] = {
            "input_id": tables["tokens"]["input_id"][tokens],
            "label_id": tables["masked"]["label_id"][masked],
            "masked_token": tables["masked"]["token"][masked] - np.repeat(index.first_token[rows], num_masked),
        }
        if self.request.top_k:
            names = ["topk_ids", "topk_logprobs", *map(logsumexp_column, (1.0, *self.request.temperatures))]
            part |= {name: tables["masked"][name][masked] for name in names}
        for layer in self.request.hidden_layers:
            part |= {f"{layer}.{name}": column[tokens] for name, column in tables[hidden_table(layer)].items()}
        return part

    def _targets(self, parts: list[dict[str, Array]]) -> TeacherTargets | None:
        if not self.request.top_k:
            return None
        kept = slice(None, self.request.top_k)  # the store keeps them in descending order
        partitions = {t: _join(parts, logsumexp_column(t)) for t in (1.0, *self.request.temperatures)}
        return TeacherTargets(
            topk_ids=torch.from_numpy(self._ids.targets[_join(parts, "topk_ids")[:, kept]]),
            topk_logprobs=torch.from_numpy(_join(parts, "topk_logprobs")[:, kept].astype(np.float32)),
            log_partition={t: torch.from_numpy(z.astype(np.float32)) for t, z in partitions.items()},
        )


def _ranges(starts: Int64, lengths: Int64) -> Int64:
    """The concatenation of arange(start, start + length), without a loop."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(int(ends[-1]) if len(ends) else 0)


def _join(parts: list[dict[str, Array]], name: str) -> Array:
    return parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])


def _hidden(parts: list[dict[str, Array]], layer: int, codec: HiddenCodec) -> Tensor:
    prefix = f"{layer}."
    columns: Mapping[str, Array] = {
        name.removeprefix(prefix): _join(parts, name) for name in parts[0] if name.startswith(prefix)
    }
    return torch.from_numpy(decode_hidden(columns, codec)).float()
