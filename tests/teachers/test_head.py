"""The chunked head against a plain softmax over all logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from orchestrator.teachers import head
from orchestrator.teachers.head import distribution, top_ids


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 3000),
    k=st.integers(1, 40),
    levels=st.sampled_from([2, 10, 10**6]),
    seed=st.integers(0, 9),
)
def test_top_ids_are_the_largest_whatever_the_shape_and_the_ties(
    rows: int, columns: int, k: int, levels: int, seed: int
) -> None:
    k = min(k, columns)
    z = torch.randint(levels, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    ids = top_ids(z, k)
    assert ids.shape == (rows, k)
    assert all(len(set(row)) == k for row in ids.tolist())
    found = z.gather(1, ids).sort(1, descending=True).values
    assert torch.equal(found, z.sort(1, descending=True).values[:, :k])


@pytest.mark.parametrize("columns", [7, 64, 1000, 10**6])
@pytest.mark.parametrize("with_bias", [True, False])
def test_chunks_of_the_vocabulary_change_nothing(
    columns: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "COLUMNS", columns)
    states, weight, bias = _random(33, 16), _random(1000, 16, seed=1), _random(1000, seed=2) if with_bias else None
    found = distribution(states, weight, bias, k=5, temperatures=(1.0, 2.5))
    z = F.linear(states, weight, bias).double()
    torch.testing.assert_close(found.logits.double(), z.topk(5).values, rtol=0, atol=2e-5)
    torch.testing.assert_close(z.gather(1, found.ids), z.topk(5).values, rtol=0, atol=2e-5)
    for temperature, partition in found.log_partitions.items():
        expected = torch.logsumexp(z / temperature, 1)
        torch.testing.assert_close(partition.double(), expected, rtol=0, atol=2e-5)


def test_more_kept_ids_than_columns_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "COLUMNS", 4)
    states, weight = _random(3, 8), _random(10, 8, seed=1)
    found = distribution(states, weight, None, k=10, temperatures=(1.0,))
    assert torch.equal(found.ids.sort(1).values, torch.arange(10).expand(3, -1))
    assert torch.equal(found.logits, found.logits.sort(1, descending=True).values)


def test_bfloat16_weights_are_reduced_in_float32() -> None:
    states, weight = _random(20, 16).bfloat16(), _random(500, 16, seed=1).bfloat16()
    found = distribution(states, weight, None, k=8, temperatures=(1.0,))
    z = F.linear(states, weight).double()
    torch.testing.assert_close(found.log_partitions[1.0].double(), torch.logsumexp(z, 1), rtol=0, atol=1e-5)
    assert torch.equal(found.logits.double(), z.topk(8).values)


def test_large_logits_do_not_overflow() -> None:
    weight = torch.eye(6) * 3e4
    found = distribution(torch.eye(6)[:1] * 1.5, weight, None, k=1, temperatures=(1.0, 0.5))
    assert found.log_partitions[1.0].item() == pytest.approx(45_000)
    assert found.log_partitions[0.5].item() == pytest.approx(90_000)
