"""Hard labels, logit matching, dense, exact and sampled soft targets."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.losses.output import (
    exact_soft_targets,
    hard_labels,
    logit_matching,
    sampled_soft_targets,
    soft_targets,
    sparse_soft_targets,
)
from orchestrator.losses.targets import ExactTargets, dense_probs, sampled_targets

from .helpers import generator, teacher_top_k


def pair(rows: int = 6, vocab: int = 20, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    student = torch.randn(rows, vocab, generator=generator(0), dtype=dtype) * 2
    return student.requires_grad_(), torch.randn(rows, vocab, generator=generator(1), dtype=dtype) * 2


def test_hard_labels_by_hand() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25] * 4, [0.7, 0.1, 0.1, 0.1]]).log().requires_grad_()
    loss = hard_labels(logits, teacher_ids=torch.tensor([2, -1, 0]))
    assert loss.total.item() == pytest.approx(-math.log(0.2) - math.log(0.7), abs=1e-6)
    assert loss.count.item() == 2


def test_logit_matching_by_hand() -> None:
    student = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0], [1, 1, 1, 1]], requires_grad=True)
    teacher = torch.tensor([[1.0, 2, 3, 0], [2, 2, 2, 2], [1, 1, 1, 1]], requires_grad=True)
    loss = logit_matching(student, teacher_logits=teacher)
    assert loss.total.item() == pytest.approx(8 + 8)
    assert loss.count.item() == 3
    # Centred: the second row differs by a constant only, the first by (-1, -1, -1, 3).
    assert logit_matching(student, teacher_logits=teacher, centred=True).total.item() == pytest.approx(6)
    loss.total.backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach())
    assert teacher.grad is None
    assert logit_matching(teacher, teacher_logits=teacher).total.item() == 0


def test_soft_targets_by_hand() -> None:
    student = torch.tensor([[0.25] * 4, [0.5, 0.25, 0.125, 0.125], [0.25] * 4]).log().requires_grad_()
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.5, 0.25, 0.125, 0.125], [0.25] * 4]).log()
    loss = soft_targets(student, teacher_logits=teacher)
    assert loss.total.item() == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2), abs=1e-6)
    assert loss.count.item() == 3
    loss.total.backward()
    torch.testing.assert_close(student.grad, (student.softmax(-1) - teacher.softmax(-1)).detach())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_targets_agree_with_torch_and_with_all_ids_kept(temperature: float) -> None:
    student, teacher = pair()
    loss = soft_targets(student, teacher_logits=teacher, temperature=temperature)
    expected = F.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="batchmean"
    )
    torch.testing.assert_close(loss.total / loss.count, expected * temperature**2)
    sparse = sparse_soft_targets(student, **teacher_top_k(teacher, 20, temperature), temperature=temperature)
    torch.testing.assert_close(loss.total, sparse.total, atol=1e-5, rtol=1e-5)
    shared = soft_targets(
        student, teacher_logits=teacher, temperature=temperature, log_partition=(student / temperature).logsumexp(-1)
    )
    torch.testing.assert_close(shared.total, loss.total)
    parts = [
        soft_targets(student[r], teacher_logits=teacher[r], temperature=temperature) for r in ([0], [1, 2, 3, 4, 5])
    ]
    torch.testing.assert_close(parts[0].total + parts[1].total, loss.total)


def test_soft_targets_at_equality_and_without_gradient_to_the_teacher() -> None:
    student, _ = pair()
    teacher = student.detach().clone().requires_grad_()
    loss = soft_targets(student, teacher_logits=teacher, temperature=2.0)
    loss.total.backward()
    assert abs(loss.total.item()) < 1e-5
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6
    assert teacher.grad is None


def test_soft_targets_approach_centred_logit_matching_as_temperature_grows() -> None:
    student, teacher = pair(dtype=torch.float64)
    hot = soft_targets(student, teacher_logits=teacher, temperature=1e4).total
    limit = logit_matching(student, teacher_logits=teacher, centred=True).total / student.shape[-1]
    torch.testing.assert_close(hot, limit, rtol=1e-3, atol=0.0)


def test_dense_gradcheck() -> None:
    student, teacher = pair(3, 7, torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: soft_targets(z, teacher_logits=teacher, temperature=2.0).total, (student,)
    )


def exact(rows: int, vocab: int, width: int = 5, student_ids: Tensor | None = None) -> ExactTargets:
    states, weight = torch.randn(rows, width, generator=generator(2)), torch.randn(vocab, width, generator=generator(3))
    return ExactTargets(states, weight, torch.randn(vocab, generator=generator(4)), student_ids)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_exact_targets_are_the_dense_ones(temperature: float) -> None:
    student, _ = pair()
    targets = exact(6, 20)
    assert targets.bias is not None
    teacher = targets.states @ targets.weight.T + targets.bias
    loss = exact_soft_targets(student, targets=targets, temperature=temperature)
    torch.testing.assert_close(loss.total, soft_targets(student, teacher_logits=teacher, temperature=temperature).total)
    equal = exact_soft_targets(teacher, targets=targets, temperature=temperature)
    assert abs(equal.total.item()) < 1e-4


def test_masses_move_to_the_students_vocabulary() -> None:
    teacher = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    probs = dense_probs(teacher, temperature=1.0, vocab_size=3, student_ids=torch.tensor([2, 0, 2, -1]))
    torch.testing.assert_close(probs, torch.tensor([[0.2, 0.0, 0.7]]) / 0.9)
    with pytest.raises(ValueError, match="map of ids"):
        dense_probs(teacher, temperature=1.0, vocab_size=3)


def test_sampled_targets_by_hand() -> None:
    targets = sampled_targets(torch.tensor([[4, 9, -1, 4]]), counts=torch.tensor([[3, 1, 2, 2]], dtype=torch.uint8))
    found = {i: p for i, p in zip(targets.ids[0].tolist(), targets.log_probs[0].exp().tolist(), strict=True) if i >= 0}
    assert found == pytest.approx({4: 5 / 8, 9: 1 / 8})
    logits = torch.zeros(1, 10, requires_grad=True)
    sampled_soft_targets(
        logits, sampled_ids=torch.tensor([[4, 9]]), sampled_counts=torch.tensor([[3, 1]])
    ).total.backward()
    expected = torch.full((1, 10), 0.1)
    expected[0, 4] -= 0.75
    expected[0, 9] -= 0.25
    torch.testing.assert_close(logits.grad, expected)


def test_uint8_counts_do_not_overflow() -> None:
    targets = sampled_targets(torch.tensor([[0, 1]]), counts=torch.tensor([[200, 200]], dtype=torch.uint8))
    torch.testing.assert_close(targets.log_probs.exp(), torch.tensor([[0.5, 0.5]]))


def test_sampled_targets_are_unbiased_where_top_k_is_not() -> None:
    """On a flat distribution the mean gradient over many draws is the dense one; top-k stays away from it."""
    vocab, draws, each = 100, 20000, 50
    teacher = torch.randn(1, vocab, generator=generator(5)) * 0.1
    student = torch.randn(1, vocab, generator=generator(6)).requires_grad_()
    (dense,) = torch.autograd.grad(soft_targets(student, teacher_logits=teacher).total, student)
    ids = torch.multinomial(teacher.softmax(-1).expand(draws, -1), each, replacement=True, generator=generator(7))
    many = student.detach().expand(draws, -1).clone().requires_grad_()
    sampled_soft_targets(many, sampled_ids=ids, sampled_counts=torch.ones_like(ids)).total.backward()
    assert many.grad is not None
    assert ((many.grad.mean(0) - dense[0]).norm() / dense.norm()).item() < 0.02
    biased = sparse_soft_targets(student, **teacher_top_k(teacher, 12, 1.0), tail="renormalise").total
    (top_k,) = torch.autograd.grad(biased, student)
    assert ((top_k - dense).norm() / dense.norm()).item() > 0.2
