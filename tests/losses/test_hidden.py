"""Distances between hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from orchestrator.losses.base import LossSum
from orchestrator.losses.hidden import hidden_cosine, hidden_mse

from .helpers import generator

BOTH: list[Callable[..., LossSum]] = [hidden_mse, hidden_cosine]


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


def test_agreement_with_torch() -> None:
    student, teacher = torch.randn(2, 7, 16, generator=generator(0)), torch.randn(2, 7, 16, generator=generator(1))
    mse = hidden_mse(student, teacher)
    torch.testing.assert_close(mse.total / mse.count, F.mse_loss(student, teacher))
    cosine = hidden_cosine(student, teacher)
    expected = F.cosine_embedding_loss(student.flatten(0, 1), teacher.flatten(0, 1), torch.ones(14))
    torch.testing.assert_close(cosine.total / cosine.count, expected)


@pytest.mark.parametrize("loss", BOTH)
def test_gradcheck(loss: Callable[..., LossSum]) -> None:
    student = torch.randn(4, 5, generator=generator(2), dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, generator=generator(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda states: loss(states, teacher).total, (student,))


@pytest.mark.parametrize("loss", BOTH)
def test_zero_at_equality_and_no_gradient_to_the_teacher(loss: Callable[..., LossSum]) -> None:
    student = torch.randn(6, 8, generator=generator(4), requires_grad=True)
    teacher = student.detach().clone().requires_grad_()
    value = loss(student, teacher)
    value.total.backward()
    assert abs(value.total.item()) < 1e-6
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6


@pytest.mark.parametrize("loss", BOTH)
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


@pytest.mark.parametrize("loss", BOTH)
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


@pytest.mark.parametrize("loss", BOTH)
def test_half_precision_is_widened(loss: Callable[..., LossSum]) -> None:
    student = torch.randn(3, 8, generator=generator(9)).bfloat16()
    teacher = torch.randn(3, 8, generator=generator(10)).half()
    value = loss(student, teacher)
    assert value.total.dtype == torch.float32
    torch.testing.assert_close(value.total, loss(student.float(), teacher.float()).total)
