"""The chunked head against a plain softmax over all logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from orchestrator.teachers import head
from orchestrator.teachers.head import distribution, draw, top_ids


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


@settings(deadline=None, max_examples=60)
@given(columns=st.integers(1, 700), seed=st.integers(0, 99))
def test_a_draw_is_the_inverse_of_the_cumulated_masses(columns: int, seed: int) -> None:
    """With whole numbers nothing is rounded, so every draw must be the one of a plain cumulated sum."""
    generator = torch.Generator().manual_seed(seed)
    masses = torch.randint(0, 4, (3, columns), generator=generator).float()
    masses[:, int(torch.randint(columns, (), generator=generator))] = 3.0
    uniforms = torch.rand(3, 20, generator=generator, dtype=torch.float64)
    uniforms[:, :2] = torch.tensor([0.0, 1.0 - 2**-53])  # the largest: times the total it is rounded to the total
    found = draw(masses, uniforms)
    ends = masses.double().cumsum(1)
    expected = (ends[:, None, :] <= (uniforms * ends[:, -1:])[:, :, None]).sum(2)
    expected[:, 1] = columns - 1 - masses.flip(1).bool().int().argmax(1)
    assert torch.equal(found, expected)
    assert (masses.gather(1, found) > 0).all()


@pytest.mark.parametrize("columns", [10**6, 300, 64, 7])
def test_draws_come_as_often_as_the_softmax_says(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the chunks: the chi-squared statistic of 400,000 draws over 500 ids."""
    monkeypatch.setattr(head, "COLUMNS", columns)
    states, weight, bias = _random(1, 8), _random(500, 8, seed=1), _random(500, seed=2)
    uniforms = torch.rand(1, 400_000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = distribution(states, weight, bias, k=0, temperatures=(), uniforms=uniforms)
    expected = F.linear(states, weight, bias).double().softmax(1)[0] * 400_000
    statistic = ((torch.bincount(found.drawn[0], minlength=500) - expected).square() / expected).sum().item()
    assert abs(statistic - 499) < 5 * (2 * 499) ** 0.5


def test_a_certain_teacher_is_drawn_from_too() -> None:
    """All mass on one id, the rest underflows to nothing."""
    weight = torch.eye(300) * 200
    uniforms = torch.rand(300, 30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = distribution(torch.eye(300), weight, None, k=0, temperatures=(), uniforms=uniforms)
    assert torch.equal(found.drawn, torch.arange(300)[:, None].expand(-1, 30))
