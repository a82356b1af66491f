"""Distances between hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from orchestrator.losses.base import LossSum
from orchestrator.losses.hidden import feature_kl, hidden_cosine, hidden_mse, layer_norm_mse, normalised_mse

from .helpers import generator

ALL: list[Callable[..., LossSum]] = [hidden_mse, hidden_cosine, normalised_mse, layer_norm_mse, feature_kl]


def test_mse_by_hand() -> None:
    student = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0], [1, 1, 1, 1]], requires_grad=True)
    teacher = torch.tensor([[1.0, 2, 3, 0], [2, 0, 0, 0], [9, 9, 9, 9]])
    loss = hidden_mse(student, teacher, valid=torch.tensor([True, True, False]))
    assert loss.total.item() == pytest.approx(16 / 4 + 4 / 4)
    assert loss.count.item() == 2
    loss.total.backward()
    torch.testing.assert_close(student.grad, torch.tensor([[0.0, 0, 0, 2], [-1, 0, 0, 0], [0, 0, 0, 0]]))


def test_cosine_by_hand() -> None:
    student = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 3, 0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 5, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
    loss = hidden_cosine(student, teacher)
    assert loss.total.item() == pytest.approx(1 + (1 - math.sqrt(0.5)) + 2, abs=1e-6)
    assert loss.count.item() == 3


def test_normalised_mse_by_hand() -> None:
    student = torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]], requires_grad=True)
    teacher = torch.tensor([[10.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 7, 0]])
    loss = normalised_mse(student, teacher)
    assert loss.total.item() == pytest.approx(0.4**2 + 0.8**2 + 1, abs=1e-6)
    assert loss.count.item() == 3
    loss.total.backward()
    assert student.grad is not None
    assert not student.grad[1].any()  # a zero vector has no direction to change


def test_layer_norm_mse_by_hand() -> None:
    student = torch.tensor([[0.0, 0, 2, 2], [5, 5, 9, 9], [1, 3, 1, 3]])
    teacher = torch.tensor([[7.0, 7, 8, 8], [2, 2, 0, 0], [1, 1, 3, 3]])
    loss = layer_norm_mse(student, teacher)
    # Every row becomes ±1 (to the ε of the LayerNorm): equal, opposite (4 each), and opposite in two of four places.
    assert loss.total.item() == pytest.approx(0 + 4 + 2, abs=1e-3)
    assert loss.count.item() == 3


def test_feature_kl_by_hand() -> None:
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25] * 4, [0.25] * 4]).log() - 3
    student = torch.tensor([[0.25] * 4, [0.25] * 4, [0.5, 0.25, 0.125, 0.125]]).log() + 5
    loss = feature_kl(student, teacher)
    there = 0.5 * math.log(2) + 2 * 0.125 * math.log(0.5)
    back = 0.25 * (math.log(0.5) + 0 + 2 * math.log(2))
    assert loss.total.item() == pytest.approx(there + back, abs=1e-6)
    assert loss.count.item() == 3


def test_agreement_with_torch() -> None:
    student, teacher = torch.randn(2, 7, 16, generator=generator(0)), torch.randn(2, 7, 16, generator=generator(1))
    mse = hidden_mse(student, teacher)
    torch.testing.assert_close(mse.total / mse.count, F.mse_loss(student, teacher))
    cosine = hidden_cosine(student, teacher)
    expected = F.cosine_embedding_loss(student.flatten(0, 1), teacher.flatten(0, 1), torch.ones(14))
    torch.testing.assert_close(cosine.total / cosine.count, expected)
    unit_distance = F.mse_loss(F.normalize(student, dim=-1), F.normalize(teacher, dim=-1), reduction="sum")
    torch.testing.assert_close(normalised_mse(student, teacher).total, unit_distance)
    normed = F.mse_loss(F.layer_norm(student, (16,)), F.layer_norm(teacher, (16,)))
    torch.testing.assert_close(layer_norm_mse(student, teacher).total / 14, normed)
    divergence = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="sum")
    torch.testing.assert_close(feature_kl(student, teacher).total, divergence)


@pytest.mark.parametrize("loss", ALL)
def test_gradcheck(loss: Callable[..., LossSum]) -> None:
    student = torch.randn(4, 5, generator=generator(2), dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, generator=generator(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda states: loss(states, teacher).total, (student,))


@pytest.mark.parametrize("loss", ALL)
def test_zero_at_equality_and_no_gradient_to_the_teacher(loss: Callable[..., LossSum]) -> None:
    student = torch.randn(6, 8, generator=generator(4), requires_grad=True)
    teacher = student.detach().clone().requires_grad_()
    value = loss(student, teacher)
    value.total.backward()
    assert abs(value.total.item()) < 1e-6
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6


@pytest.mark.parametrize("loss", ALL)
def test_padding_changes_nothing_even_when_it_is_not_a_number(loss: Callable[..., LossSum]) -> None:
    student, teacher = torch.randn(2, 5, 8, generator=generator(5)), torch.randn(2, 5, 8, generator=generator(6))
    valid = torch.tensor([[True, True, True, False, False], [True, True, True, True, False]])
    expected = loss(student[valid], teacher[valid])
    student[~valid], teacher[~valid] = math.nan, math.inf
    student.requires_grad_()
    padded = loss(student, teacher, valid=valid)
    torch.testing.assert_close(padded.total, expected.total)
    assert padded.count == expected.count == 7
    padded.total.backward()
    assert student.grad is not None
    assert not student.grad[~valid].any()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", ALL)
def test_micro_batches_equal_one_batch(loss: Callable[..., LossSum]) -> None:
    student, teacher = torch.randn(9, 8, generator=generator(7)), torch.randn(9, 8, generator=generator(8))
    whole, first, rest = loss(student, teacher), loss(student[:2], teacher[:2]), loss(student[2:], teacher[2:])
    torch.testing.assert_close(first.total + rest.total, whole.total)
    assert first.count + rest.count == whole.count


def test_cosine_of_a_zero_vector_is_one_without_a_gradient() -> None:
    student = torch.zeros(2, 4, requires_grad=True)
    loss = hidden_cosine(student, torch.ones(2, 4))
    loss.total.backward()
    assert loss.total.item() == 2
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("loss", ALL)
def test_half_precision_is_widened(loss: Callable[..., LossSum]) -> None:
    student = torch.randn(3, 8, generator=generator(9)).bfloat16()
    teacher = torch.randn(3, 8, generator=generator(10)).half()
    value = loss(student, teacher)
    assert value.total.dtype == torch.float32
    torch.testing.assert_close(value.total, loss(student.float(), teacher.float()).total)
