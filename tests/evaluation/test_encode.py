"""Batched states and mean vectors beside a forward pass of transformers, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM

from orchestrator.evaluation import encode
from orchestrator.evaluation.encode import TokenRows, masked_states, mean_vectors
from orchestrator.models.encoder import freeze
from orchestrator.models.loading import load_encoder

from .tiny import write_model

ROWS = [[2, 7, 8, 9, 3], [2, 10, 3], [2, 11, 12, 13, 14, 15, 16, 3], [2, 5, 6, 3]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), vocab_size=25)


@pytest.mark.parametrize("tokens_per_batch", [1, 12, 2048])
def test_masked_states_are_what_the_head_of_transformers_reads(
    folder: Path, tokens_per_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "TOKENS_PER_BATCH", tokens_per_batch)
    encoder = freeze(load_encoder(str(folder), need_head=True))
    rows = TokenRows.of(ROWS)
    masked = np.array([1, 3, 6, 10, 14, 17], np.int64)
    states = masked_states(encoder, rows, masked, pad=0)
    logits = torch.nn.functional.linear(states, encoder.decoder_weight, encoder.decoder_bias)
    reference = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = torch.cat([reference(torch.tensor([row])).logits[0] for row in ROWS])[masked]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens_per_batch", [1, 12, 2048])
def test_mean_vectors_of_every_layer(folder: Path, tokens_per_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "TOKENS_PER_BATCH", tokens_per_batch)
    vectors = mean_vectors(freeze(load_encoder(str(folder), need_head=False)), TokenRows.of(ROWS), pad=0)
    reference = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = [reference(torch.tensor([row]), output_hidden_states=True).hidden_states for row in ROWS]
    expected = np.array([[row[layer][0].mean(dim=0).numpy() for row in states] for layer in range(3)])
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100))
def test_every_row_is_in_one_batch_and_batches_keep_to_their_size(lengths: list[int], tokens_per_batch: int) -> None:
    rows = TokenRows.of([[0] * length for length in lengths])
    before = encode.TOKENS_PER_BATCH
    encode.TOKENS_PER_BATCH = tokens_per_batch
    try:
        batches = list(rows.batches())
    finally:
        encode.TOKENS_PER_BATCH = before
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= tokens_per_batch


def test_padding() -> None:
    ids, attention = TokenRows.of(ROWS).padded(np.array([1, 3]), pad=9, device=torch.device("cpu"))
    assert ids.tolist() == [[2, 10, 3, 9], [2, 5, 6, 3]]
    assert attention.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
