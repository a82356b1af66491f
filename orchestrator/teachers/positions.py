"""What a teacher says of the output layer at the positions of a unit: collected over batches, reduced by its head.

Shape legend: P positions of the unit (masked ones, or all tokens), n draws, D width, D' width of the decoder's input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from orchestrator.corpus.hashing import DRAWS, random_bits, row_keys, uniform
from orchestrator.errors import ConfigError, DataError
from orchestrator.models.encoder import Encoder
from orchestrator.records import Array, Int32, Int64, MaskedRows, SignalRequest
from orchestrator.signals.codecs import encode_hidden
from orchestrator.signals.draws import encode_draws
from orchestrator.signals.schema import drawn_table, draws_table, head_states_table, partition_table, topk_table
from orchestrator.signals.topk import encode_topk
from orchestrator.teachers.batches import PaddedBatch
from orchestrator.teachers.head import ROWS, distribution, slices


class HeadSignals:
    """Collects hidden states until they fill a matrix product, then reduces them to the tables that are wanted."""

    def __init__(
        self,
        encoder: Encoder,
        rows: MaskedRows,
        request: SignalRequest,
        tables: dict[str, dict[str, Array]],
        *,
        seed: int,
        vocab_size: int | None,
    ) -> None:
        """`tables`: those that are wanted, filled in place."""
        assert encoder.has_head, "this request needs a masked-language-model head"
        size = encoder.vocab_size if vocab_size is None else min(vocab_size, encoder.vocab_size)
        if request.top_k > size:
            raise ConfigError(f"k: {request.top_k} ids are asked of a teacher whose vocabulary has {size}; lower k")
        self._encoder = encoder
        self._weight = encoder.decoder_weight[:size]
        self._bias = None if encoder.decoder_bias is None else encoder.decoder_bias[:size]
        self._at_all_tokens = request.at_all_tokens
        self._tables = tables
        self._request = request
        self._top_k = tables.get(topk_table(request))
        self._partitions = {
            temperature: tables[name]["logsumexp"]
            for temperature in (1.0, *request.temperatures)
            if (name := partition_table(request, temperature)) in tables
        }
        self._head_states = tables.get(head_states_table(request))
        self._draws = request.draws if {draws_table(request), drawn_table(request)} & tables.keys() else 0
        positions = np.arange(len(rows.input_id)) if request.at_all_tokens else rows.masked_token
        self._keys = _position_keys(rows, positions, seed)
        self._drawn: Int32 = np.empty((len(positions), self._draws), np.int32)
        self._states: list[Tensor] = []
        self._places: list[Int64] = []

    def add(self, last: Tensor, batch: PaddedBatch) -> None:
        """Take the positions of one batch; `last` [B, L, D]."""
        flat, places = batch.masked_positions, batch.masked
        if self._at_all_tokens:
            flat, places = batch.token_positions, batch.tokens
        self._states.append(last.flatten(0, 1).index_select(0, flat.to(last.device)))
        self._places.append(places)
        if sum(map(len, self._places)) >= ROWS:
            self._run(keep_remainder=True)

    def finish(self) -> None:
        """Run the positions that are left over, and write what is only known when all are done."""
        if self._states:
            self._run(keep_remainder=False)
        if self._draws:
            distinct, code = encode_draws(self._drawn, vocab_size=self._encoder.vocab_size)
            for table, name, column in (
                (draws_table(self._request), "distinct", distinct),
                (drawn_table(self._request), "code", code),
            ):
                if table in self._tables:
                    self._tables[table][name] = column

    def _run(self, *, keep_remainder: bool) -> None:
        states, places = torch.cat(self._states), np.concatenate(self._places)
        whole = len(places) // ROWS * ROWS if keep_remainder else len(places)
        for chosen in slices(whole, ROWS):
            self._reduce(self._encoder.head_states(states[chosen]), places[chosen])
        self._states, self._places = [states[whole:]], [places[whole:]]

    def _reduce(self, states: Tensor, places: Int64) -> None:
        if self._head_states is not None:
            _write(self._head_states, places, encode_hidden(states.float().cpu().numpy(), "fp16"))
        if self._top_k is None and not self._partitions and not self._draws:
            return
        uniforms = uniform(self._keys[places], 2 * self._draws).reshape(len(places), self._draws, 2)
        found = distribution(
            states,
            self._weight,
            self._bias,
            k=0 if self._top_k is None else self._request.top_k,
            temperatures=[temperature for temperature in self._partitions if temperature != 1],
            uniforms=torch.from_numpy(uniforms).to(states.device),
        )
        log_partition = found.log_partitions[1.0]
        if not torch.isfinite(log_partition).all():
            raise DataError("the teacher's logits are not all finite numbers; run this teacher in dtype float32")
        self._drawn[places] = found.drawn.int().cpu().numpy()
        if self._top_k is not None:
            log_probs = (found.logits - log_partition[:, None]).cpu().numpy()
            size = self._encoder.vocab_size
            _write(self._top_k, places, encode_topk(found.ids.cpu().numpy(), log_probs, vocab_size=size))
        for temperature, column in self._partitions.items():
            column[places] = found.log_partitions[temperature].cpu().numpy()


def _write(columns: dict[str, Array], places: Int64, values: Mapping[str, Array]) -> None:
    for name, column in values.items():
        columns[name][places] = column


def _position_keys(rows: MaskedRows, tokens: Int64, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """A key for each of the `tokens` [P], by its row's id, its copy and its place in the row."""
    row = np.searchsorted(rows.first_token, tokens, side="right") - 1
    return random_bits(row_keys(seed, rows.row_id, rows.copy)[row], tokens - rows.first_token[row], DRAWS)
