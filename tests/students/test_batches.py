"""Batches against the store read by hand, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch

from orchestrator.errors import StoreError
from orchestrator.records import Array, SignalRequest, SpecialIds, StateKey, Tables
from orchestrator.signals.codecs import decode_hidden
from orchestrator.signals.draws import first_drawn, split_codes
from orchestrator.signals.store import Store
from orchestrator.signals.topk import decode_topk
from orchestrator.students.batch import Batch
from orchestrator.students.batches import BatchReader
from orchestrator.students.ids import IdMap
from orchestrator.students.source import StoredSource
from tests.students.tiny import World, whole
from vocab_tools.mapping import open_vocabulary

STATES = (StateKey("hidden", 0), StateKey("hidden", 3), StateKey("value", 2))
REQUEST = SignalRequest(top_k=8, temperatures=(2.0,), draws=20, head_states=True, states=STATES)
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
MASK = {"mixed": 4, "other": 4}
MISSING = -1


def make_reader(
    world: World, teacher: str, language: str, *, vocabulary: str, request: SignalRequest = REQUEST
) -> BatchReader:
    opened = open_vocabulary(world.vocabularies[vocabulary])
    ids = IdMap(opened.map(teacher), student_special=SPECIAL, student_size=opened.size, teacher_mask=MASK[teacher])
    return BatchReader(StoredSource(world.stores[teacher]), language, ids=ids, request=request)


class StoredRow(NamedTuple):
    """One row as the shards have it."""

    input_ids: Array
    positions: Array  # of the masked tokens, within the row
    labels: Array
    topk_ids: Array  # this and what follows: of every token
    topk_logprobs: Array
    logsumexp: Array
    logsumexp_t2: Array
    drawn: list[dict[int, int]]  # id -> how often
    head_states: Array
    states: dict[StateKey, Array]


def stored_rows(store: Store, language: str) -> Iterator[StoredRow]:
    """Every row of a language, in the order of the index."""
    for unit in store.units:
        if unit.language != language:
            continue
        tables = store.shard(unit.index)
        texts, masked = tables["texts"], tables["masked"]
        for row in range(len(texts["row_id"])):
            first, length = int(texts["first_token"][row]), int(texts["num_tokens"][row])
            first_masked, num_masked = int(texts["first_masked"][row]), int(texts["num_masked"][row])
            tokens, places = slice(first, first + length), slice(first_masked, first_masked + num_masked)
            topk_ids, topk_logprobs = decode_topk(tables["topk_012_all"])
            yield StoredRow(
                tables["tokens"]["input_id"][tokens],
                masked["token"][places] - first,
                masked["label_id"][places],
                topk_ids[tokens],
                topk_logprobs[tokens],
                tables["partition_all"]["logsumexp"][tokens],
                tables["partition_t2_all"]["logsumexp"][tokens],
                [drawn_at(tables, token) for token in range(first, first + length)],
                tables["head_states_all"]["values"][tokens],
                {
                    key: decode_hidden(
                        {n: c[tokens] for n, c in tables[f"{key.kind}_{key.layer:02d}"].items()}, store.codec
                    )
                    for key in STATES
                },
            )


def drawn_at(tables: Tables, token: int) -> dict[int, int]:
    """What was drawn at one token."""
    distinct = tables["draws_020_all"]["distinct"]
    start = int(first_drawn(distinct)[token])
    ids, counts = split_codes(tables["drawn_020_all"]["code"][start : start + int(distinct[token])], draws=20)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize(
    ("teacher", "language", "vocabulary"), [("mixed", "aa", "aa"), ("mixed", "bb", "aa"), ("other", "bb", "union")]
)
def test_a_batch_is_what_the_store_holds(world: World, teacher: str, language: str, vocabulary: str) -> None:
    reader = make_reader(world, teacher, language, vocabulary=vocabulary)
    table = open_vocabulary(world.vocabularies[vocabulary]).map(teacher)
    stored = list(stored_rows(world.stores[teacher], language))
    chosen = np.random.default_rng(0).permutation(len(stored))[:70]
    window = whole(reader)
    batch = reader.batch(window, chosen)
    in_order = [stored[row] for row in sorted(chosen, key=lambda row: window.rows.shard[row])]  # sorted is stable

    at_token = at_masked = num_random = num_missing = 0
    for b, row in enumerate(in_order):
        length = len(row.input_ids)
        assert batch.attention_mask[b].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        assert (batch.input_ids[b, length:] == SPECIAL.pad).all()
        for token, teacher_id in enumerate(row.input_ids):
            position = b * batch.input_ids.shape[1] + token
            assert batch.token_positions[at_token] == position
            assert batch.teacher_ids[at_token] == teacher_id
            assert batch.known_ids[at_token] == table[teacher_id]
            for key in STATES:
                np.testing.assert_array_equal(batch.states[key][at_token], row.states[key][token])
            at_token += 1
            student_id = int(batch.input_ids[b, token])
            masked = np.flatnonzero(row.positions == token)
            label = int(row.labels[masked[0]]) if len(masked) else int(teacher_id)
            if teacher_id not in (label, MASK[teacher]):
                num_random += 1
                assert student_id not in SPECIAL.all()
            if table[teacher_id] >= 0:
                assert student_id == table[teacher_id]
            elif teacher_id == label:
                assert student_id == SPECIAL.unk
            if len(masked):
                num_missing += int(table[label] < 0)
                assert batch.masked_positions[at_masked] == position
                assert batch.labels[at_masked] == table[label]
                assert batch.masked_tokens[at_masked] == at_token - 1
                told = batch.targets
                assert told.topk_ids[at_masked].tolist() == table[row.topk_ids[token, :8]].tolist()
                np.testing.assert_array_equal(told.topk_logprobs[at_masked], row.topk_logprobs[token, :8])
                assert told.log_partition[1.0][at_masked] == row.logsumexp[token]
                assert told.log_partition[2.0][at_masked] == row.logsumexp_t2[token]
                np.testing.assert_array_equal(told.head_states[at_masked], row.head_states[token].astype(np.float32))
                drawn = told.drawn_counts[at_masked].tolist()
                assert sorted(count for count in drawn if count) == sorted(row.drawn[token].values())
                pairs = set(zip(told.drawn_ids[at_masked].tolist(), drawn, strict=True)) - {(-1, 0)}
                assert pairs == {(int(table[i]), count) for i, count in row.drawn[token].items()}
                at_masked += 1
    assert at_token == batch.num_tokens == int(batch.attention_mask.sum())
    assert at_masked == len(batch.labels)
    assert num_random > 3
    assert num_missing == int((batch.labels == MISSING).sum())
    assert num_missing > 0
    assert (batch.input_ids == SPECIAL.unk).any()


def test_a_random_token_that_the_student_lacks_becomes_another_ordinary_one() -> None:
    table = np.array([0, 1, 2, 3, 4, 5, -1, 6, -1, -1], np.int32)
    ids = IdMap(table, student_special=SPECIAL, student_size=7, teacher_mask=4)
    assert ids.inputs.tolist() == [0, 1, 2, 3, 4, 5, 1, 6, 1, 1]
    assert ids.targets.tolist() == table.tolist()
    assert set(ids.random[[6, 8, 9]]) <= {5, 6}
    np.testing.assert_array_equal(ids.random[table >= 0], table[table >= 0])


def test_random_tokens_of_a_large_vocabulary_stay_spread_out() -> None:
    table = np.full(50_000, -1, np.int32)
    table[:1000] = np.arange(1000)
    ids = IdMap(table, student_special=SPECIAL, student_size=1000, teacher_mask=4)
    counts = np.bincount(ids.random[1000:], minlength=1000)
    assert (counts[:5] == 0).all()
    assert counts[5:].max() < 3 * counts[5:].mean()
    assert counts[5:].min() > 0


def test_a_row_is_the_same_in_every_batch(world: World) -> None:
    """Neither the other rows of a batch nor the order or number of readers changes what a row says."""
    reader = make_reader(world, "mixed", "aa", vocabulary="aa")
    window = whole(reader)
    rows = np.random.default_rng(1).permutation(len(window.rows))[:12]
    together, again = reader.batch(window, rows), make_reader(world, "mixed", "aa", vocabulary="aa").batch(window, rows)
    for mine, other in zip(tensors_of(together), tensors_of(again), strict=True):
        assert torch.equal(mine, other)
    alone = {int(row): reader.batch(window, np.asarray([row])) for row in rows}
    for b, row in enumerate(sorted(rows, key=lambda row: window.rows.shard[row])):
        single = alone[int(row)]
        length = single.num_tokens
        assert torch.equal(together.input_ids[b, :length], single.input_ids[0])
        inside = (together.masked_positions // together.input_ids.shape[1]) == b
        assert torch.equal(together.masked_positions[inside] % together.input_ids.shape[1], single.masked_positions)
        assert torch.equal(together.labels[inside], single.labels)


def test_batches_own_their_memory(world: World) -> None:
    """The maps of a store cannot be written to; a batch can be, and the store does not notice."""
    reader = make_reader(world, "mixed", "aa", vocabulary="full")
    window, one_row = whole(reader), np.asarray([3])
    before = [tensor.clone() for tensor in tensors_of(reader.batch(window, one_row))]
    for tensor in tensors_of(reader.batch(window, one_row)):
        tensor.zero_()
    for tensor, expected in zip(tensors_of(reader.batch(window, one_row)), before, strict=True):
        assert torch.equal(tensor, expected)


def test_only_what_is_asked_for_is_read(world: World) -> None:
    reader = make_reader(world, "mixed", "aa", vocabulary="aa", request=SignalRequest())
    batch = reader.batch(whole(reader), np.arange(4))
    told = batch.targets
    assert told.topk_ids.shape == told.drawn_ids.shape == told.head_states.shape == (len(batch.labels), 0)
    assert batch.states == {}
    opened = []
    store = world.stores["mixed"]

    class Watched(Store):
        def shard(self, index: int, tables: object = None) -> object:  # type: ignore[override]
            opened.extend(tables)  # type: ignore[arg-type]
            return store.shard(index, tables)  # type: ignore[arg-type]

    ids = IdMap(np.arange(300, dtype=np.int32), student_special=SPECIAL, student_size=300, teacher_mask=4)
    watched = StoredSource(Watched(store.folder, store._manifest))
    whole(BatchReader(watched, "aa", ids=ids, request=SignalRequest(states=(StateKey("hidden", 2),))))
    assert set(opened) == {"texts", "tokens", "masked", "hidden_02"}


@pytest.mark.parametrize(
    "request_",
    [SignalRequest(top_k=13), SignalRequest(top_k=1, temperatures=(3.0,)), SignalRequest(states=(StateKey("key", 5),))],
)
def test_a_store_that_lacks_a_signal_is_refused(world: World, request_: SignalRequest) -> None:
    with pytest.raises(StoreError, match=r"lacks signals.*precompute-teacher"):
        make_reader(world, "mixed", "aa", vocabulary="aa", request=request_)


def test_ids_of_another_tokenizer_are_refused(world: World) -> None:
    ids = IdMap(np.arange(20, dtype=np.int32), student_special=SPECIAL, student_size=20, teacher_mask=4)
    reader = BatchReader(StoredSource(world.stores["mixed"]), "aa", ids=ids, request=SignalRequest())
    with pytest.raises(StoreError, match=r"shard \d.*vocabulary of 20.*build-vocab"):
        whole(reader)


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    """Every tensor of a batch."""
    return [
        batch.input_ids,
        batch.attention_mask,
        batch.token_positions,
        batch.masked_positions,
        batch.labels,
        batch.masked_tokens,
        batch.teacher_ids,
        batch.known_ids,
        batch.targets.topk_ids,
        batch.targets.topk_logprobs,
        batch.targets.drawn_ids,
        batch.targets.drawn_counts,
        batch.targets.head_states,
        *batch.targets.log_partition.values(),
        *batch.states.values(),
    ]
