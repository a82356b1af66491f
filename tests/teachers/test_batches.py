"""Every row is in one batch, and every token and masked position finds its way back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.teachers.batches import group_by_length, pad_rows
from tests.models.tiny import SPECIAL, VOCAB_SIZE
from tests.teachers.rows import masked_rows

LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, tokens_per_batch=st.integers(1, 200))
def test_batches_partition_the_rows_within_the_budget(lengths: list[int], tokens_per_batch: int) -> None:
    num_tokens = np.array(lengths, np.int32)
    batches = list(group_by_length(num_tokens, tokens_per_batch=tokens_per_batch))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for chosen in batches:
        assert len(chosen) == 1 or len(chosen) * num_tokens[chosen].max() <= tokens_per_batch
    in_order = num_tokens[np.concatenate(batches)]
    assert (np.diff(in_order) <= 0).all()


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, seed=st.integers(0, 5))
def test_a_padded_batch_knows_where_its_tokens_come_from(lengths: list[int], seed: int) -> None:
    rows = masked_rows(lengths, special=SPECIAL, vocab_size=VOCAB_SIZE, seed=seed)
    chosen = np.random.default_rng(seed).permutation(len(lengths))[: max(1, len(lengths) // 2)]
    batch = pad_rows(rows, chosen, pad_id=SPECIAL.pad)
    assert batch.input_ids.shape == batch.attention_mask.shape == (len(chosen), max(lengths[i] for i in chosen))
    assert (batch.input_ids[~batch.attention_mask] == SPECIAL.pad).all()
    flat = batch.input_ids.flatten()
    assert (flat[batch.token_positions].numpy() == rows.input_id[batch.tokens]).all()
    assert (flat[batch.masked_positions] == SPECIAL.mask).all()
    for place, row in enumerate(chosen):
        mine = rows.input_id[rows.first_token[row] : rows.first_token[row] + lengths[row]]
        assert (batch.input_ids[place, : lengths[row]].numpy() == mine).all()
    positions = np.isin(rows.masked_token[batch.masked], batch.tokens)
    assert positions.all()
    assert len(batch.masked) == rows.num_masked[chosen].sum()
