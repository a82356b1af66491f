"""Softmax regression through a frozen head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.losses.regression import Distance, softmax_regression

from .helpers import generator

DISTANCES: list[Distance] = ["cross-entropy", "mse"]


def states(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 4, generator=generator(seed), dtype=dtype)


WEIGHT, BIAS = torch.randn(9, 4, generator=generator(2)), torch.randn(9, generator=generator(3))


def transform() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        head = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4))
    return head.requires_grad_(False)


def test_by_hand() -> None:
    # A decoder that passes its input on: the logits are the states.
    student = torch.tensor([[0.25] * 4, [0.5, 0.25, 0.125, 0.125], [0.25] * 4]).log().requires_grad_()
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]] * 2 + [[0.25] * 4]).log()
    loss = softmax_regression(student, teacher, weight=torch.eye(4), bias=None)
    log2 = torch.tensor(2.0).log().item()
    assert loss.total.item() == pytest.approx(2 * log2 + 1.75 * log2 + 2 * log2, abs=1e-5)
    assert loss.count.item() == 3
    loss.total.backward()
    torch.testing.assert_close(student.grad, student.softmax(-1).detach() - teacher.softmax(-1))
    apart = softmax_regression(
        teacher + torch.tensor([1.0, 0, 0, 2]), teacher, weight=torch.eye(4), bias=None, distance="mse"
    )
    assert apart.total.item() == pytest.approx(3 * 5 / 4, abs=1e-5)


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
@pytest.mark.parametrize("distance", DISTANCES)
def test_agreement_with_torch(distance: Distance, chunk_bytes: int) -> None:
    head, student, teacher = transform(), states(0).requires_grad_(), states(1)
    logits, goal = (F.linear(head(h), WEIGHT, BIAS) for h in (student, teacher))
    expected = F.mse_loss(logits, goal) if distance == "mse" else F.cross_entropy(logits, goal.softmax(-1))
    loss = softmax_regression(
        student, head(teacher), weight=WEIGHT, bias=BIAS, transform=head, distance=distance, chunk_bytes=chunk_bytes
    )
    torch.testing.assert_close(loss.total / loss.count, expected)
    (theirs,) = torch.autograd.grad(expected, student)
    (ours,) = torch.autograd.grad(loss.total / loss.count, student)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradcheck(distance: Distance) -> None:
    head = transform().double()

    def total(student: Tensor) -> Tensor:
        return softmax_regression(
            student,
            states(1, torch.float64),
            weight=WEIGHT.double(),
            bias=BIAS.double(),
            transform=head,
            distance=distance,
        ).total

    assert torch.autograd.gradcheck(total, (states(0, torch.float64).requires_grad_(),))


@pytest.mark.parametrize("distance", DISTANCES)
def test_at_equality_the_gradient_is_zero_and_neither_teacher_nor_head_gets_one(distance: Distance) -> None:
    student, teacher = states(0).requires_grad_(), states(0).requires_grad_()
    weight, bias = WEIGHT.clone().requires_grad_(), BIAS.clone().requires_grad_()
    head = transform()
    loss = softmax_regression(student, head(teacher), weight=weight, bias=bias, transform=head, distance=distance)
    loss.total.backward()
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6
    assert teacher.grad is weight.grad is bias.grad is None
    if distance == "mse":
        assert loss.total.item() == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_micro_batches_equal_one_batch(distance: Distance) -> None:
    def run(rows: slice) -> tuple[Tensor, Tensor]:
        return softmax_regression(states(0)[rows], states(1)[rows], weight=WEIGHT, bias=BIAS, distance=distance)

    torch.testing.assert_close(run(slice(0, 1))[0] + run(slice(1, 3))[0], run(slice(0, 3))[0])
    assert run(slice(0, 0))[0].item() == 0


def test_half_precision_is_widened() -> None:
    student = states(0).bfloat16().requires_grad_()
    loss = softmax_regression(student, states(1), weight=WEIGHT, bias=BIAS)
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16
    torch.testing.assert_close(
        loss.total, softmax_regression(states(0), states(1), weight=WEIGHT, bias=BIAS).total, rtol=2e-2, atol=0.0
    )
