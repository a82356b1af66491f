"""Top-k distributions as they are stored: ids exactly, log-probabilities nearly, few bytes, little divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.records import SignalRequest
from orchestrator.signals import TeacherSizes, bytes_per_token, decode_topk, encode_topk, table_columns
from orchestrator.signals.tables import check_columns


def distributions(positions: int, k: int, vocab_size: int, *, spread: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The k most probable ids of random logits, and their exact log-probabilities."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(positions, vocab_size, generator=random) * spread
    best = logits.log_softmax(-1).topk(k)
    return best.indices.numpy(), best.values.numpy()


@given(
    k=st.integers(1, 70),
    vocab_size=st.sampled_from([2, 1 << 16, (1 << 16) + 1, 1 << 17, 1 << 18, 250_002, 1 << 20, 1 << 24]),
    positions=st.integers(0, 5),
    spread=st.sampled_from([0.0, 1e-6, 0.1, 3.0, 100.0, 60_000.0]),
    seed=st.integers(0, 1000),
)
def test_ids_come_back_and_log_probabilities_nearly(
    k: int, vocab_size: int, positions: int, spread: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocab_size, (positions, k), dtype=np.int64)
    log_probs = -np.sort(random.uniform(0, spread, (positions, k)).astype(np.float32), axis=1)
    columns = encode_topk(ids, log_probs, vocab_size=vocab_size)
    sizes = TeacherSizes(8, 8, vocab_size)
    check_columns(columns, table_columns(SignalRequest(top_k=k), "int8", sizes)[f"topk_{k:03d}"], table="it")
    found_ids, found = decode_topk(columns)
    np.testing.assert_array_equal(found_ids, ids)
    assert (np.diff(found, axis=1) <= 0).all()
    ulp = np.spacing(np.abs(log_probs[:, :1]).astype(np.float16)).astype(np.float32)  # of the first, as it is stored
    span = columns["span"].astype(np.float32)[:, None]
    distance = log_probs[:, :1] - log_probs
    bound = np.sqrt((distance + ulp) * span) / 255 + span / 510**2
    assert (np.abs(found - log_probs) <= 1.01 * bound + ulp + 1e-6).all()
    assert (span <= 1.002 * (distance[:, -1:] + ulp) + 6.0e-8).all()
    for fewer in (1, k // 2 + 1):
        first_ids, first = decode_topk(columns, fewer)
        np.testing.assert_array_equal(first_ids, ids[:, :fewer])
        np.testing.assert_array_equal(first, found[:, :fewer])


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0, 8.0])
def test_the_divergence_from_the_exact_distribution_is_small(spread: float) -> None:
    """KL over the kept ids and one bucket for the rest, in nats, on flat and on sure teachers."""
    ids, exact = distributions(64, 64, 100_000, spread=spread)
    _, stored = decode_topk(encode_topk(ids, exact, vocab_size=100_000))
    p, q = np.exp(exact.astype(np.float64)), np.exp(stored.astype(np.float64))
    rest_p, rest_q = (np.clip(1 - values.sum(1), 1e-9, None) for values in (p, q))
    divergence = (q * (np.log(q) - np.log(p))).sum(1) + rest_q * (np.log(rest_q) - np.log(rest_p))
    assert divergence.mean() < 1e-3
    assert divergence.max() < 3e-3


def test_what_it_costs() -> None:
    request, sizes = SignalRequest(top_k=64), TeacherSizes(768, 768, 250_002)
    assert sum(c.num_bytes for c in table_columns(request, "int8", sizes)["topk_064"].values()) == 212
    assert bytes_per_token(request, "int8", sizes, 0.15)["topk_064"] == pytest.approx(31.8)


@pytest.mark.parametrize("value", [-np.inf, np.nan, -70_000.0])
def test_what_is_not_finite_is_refused(value: float) -> None:
    log_probs = np.array([[-1.0, -2.0], [-1.0, value]], np.float32)
    if value == -70_000.0:
        log_probs[1, 0] = value
    with pytest.raises(StoreError, match="log-probabilities of the teacher are not finite"):
        encode_topk(np.zeros((2, 2), np.int64), log_probs, vocab_size=100)


def test_a_vocabulary_can_be_too_large() -> None:
    with pytest.raises(StoreError, match="16,777,217 ids is more than can be stored; the most is 16,777,216"):
        encode_topk(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32), vocab_size=(1 << 24) + 1)
