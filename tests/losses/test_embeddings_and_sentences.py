"""Distances of embedding matrices, sentence vectors of parallel text, and the contrastive loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from orchestrator.losses.embeddings import embedding_cosine, embedding_mse
from orchestrator.losses.sentences import contrastive, mean_pool, parallel_sentences

from .helpers import generator


def test_embedding_mse_by_hand() -> None:
    student = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0], [9, 9, 9, 9]], requires_grad=True)
    teacher = torch.tensor([[7.0, 7, 7, 7], [0, 0, 0, 0], [1, 0, 0, 2]], requires_grad=True)
    loss = embedding_mse(
        student, teacher, student_ids=torch.tensor([0, 1, 1, -1, 2]), teacher_ids=torch.tensor([2, 1, 1, 0, -1])
    )
    assert loss.total.item() == pytest.approx((4 + 4 + 4) / 4)
    assert loss.count.item() == 3
    loss.total.backward()
    torch.testing.assert_close(student.grad, torch.tensor([[0.0, 0, 0, -1], [0, 2, 0, 0], [0, 0, 0, 0]]))
    assert teacher.grad is None


def test_embedding_cosine_by_hand() -> None:
    student, teacher = torch.eye(3, 4), torch.tensor([[0.0, 5, 0, 0], [1, 1, 0, 0], [0, 0, 3, 0]])
    loss = embedding_cosine(student, teacher, student_ids=torch.tensor([0, 1, 2]), teacher_ids=torch.tensor([0, 1, 2]))
    assert loss.total.item() == pytest.approx(1 + (1 - math.sqrt(0.5)) + 0, abs=1e-6)
    assert loss.count.item() == 3


def test_embeddings_through_a_projection_at_equality_and_in_parts() -> None:
    teacher = torch.randn(10, 6, generator=generator(0))
    student = torch.randn(10, 4, generator=generator(1)).requires_grad_()
    projection = nn.Linear(4, 6, bias=False)
    ids = torch.randint(-1, 10, (12,), generator=generator(2))
    for loss in (embedding_mse, embedding_cosine):
        projection.zero_grad()
        whole = loss(student, teacher, student_ids=ids, teacher_ids=ids, projection=projection)
        parts = [
            loss(student, teacher, student_ids=ids[rows], teacher_ids=ids[rows], projection=projection)
            for rows in (slice(0, 5), slice(5, 12))
        ]
        torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
        assert parts[0].count + parts[1].count == whole.count == (ids >= 0).sum()
        whole.total.backward()
        assert projection.weight.grad is not None
        assert projection.weight.grad.any()
        equal = loss(projection(student.detach()), projection(student.detach()), student_ids=ids, teacher_ids=ids)
        assert abs(equal.total.item()) < 1e-5
    kept = ids[ids >= 0]
    expected = F.mse_loss(projection(student[kept]), teacher[kept])
    found = embedding_mse(student, teacher, student_ids=ids, teacher_ids=ids, projection=projection)
    torch.testing.assert_close(found.total / found.count, expected)


def test_mean_pool_ignores_padding() -> None:
    hidden = torch.tensor([[[1.0, 2], [3, 4], [math.nan, 9]], [[5, 6], [7, 7], [8, 8]]])
    valid = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(mean_pool(hidden, valid=valid), torch.tensor([[2.0, 3], [0, 0]]))


def test_parallel_sentences_by_hand() -> None:
    teacher = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], requires_grad=True)
    source = torch.tensor([[1.0, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0]], requires_grad=True)
    target = torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]], requires_grad=True)
    loss = parallel_sentences(source, student_target=target, teacher_source=teacher)
    assert loss.total.item() == pytest.approx(4 + 1 + 2)
    assert loss.count.item() == 3
    loss.total.backward()
    torch.testing.assert_close(source.grad, (2 * (source - teacher)).detach())
    torch.testing.assert_close(target.grad, (2 * (target - teacher)).detach())
    assert teacher.grad is None
    assert parallel_sentences(teacher, student_target=teacher, teacher_source=teacher).total.item() == 0
    parts = [
        parallel_sentences(source[r], student_target=target[r], teacher_source=teacher[r]).total for r in ([0], [1, 2])
    ]
    torch.testing.assert_close(parts[0] + parts[1], loss.total)


def test_contrastive_by_hand_and_against_torch() -> None:
    loss = contrastive(torch.eye(3, 4), 5 * torch.eye(3, 4), temperature=1.0)
    assert loss.total.item() == pytest.approx(3 * math.log((math.e + 2) / math.e), abs=1e-6)
    assert loss.count.item() == 3
    student = torch.randn(6, 8, generator=generator(3)).requires_grad_()
    teacher = torch.randn(6, 8, generator=generator(4)).requires_grad_()
    similarity = F.cosine_similarity(student.unsqueeze(1), teacher.detach().unsqueeze(0), dim=-1)
    expected = F.cross_entropy(similarity / 0.1, torch.arange(6), reduction="sum")
    found = contrastive(student, teacher, temperature=0.1)
    torch.testing.assert_close(found.total, expected)
    found.total.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_sentence_losses_are_float32_under_autocast() -> None:
    student, teacher = torch.randn(4, 8, generator=generator(5)), torch.randn(4, 8, generator=generator(6))
    expected = contrastive(student, teacher).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(contrastive(student, teacher).total, expected)
    half = parallel_sentences(student.bfloat16(), student_target=student.bfloat16(), teacher_source=teacher.half())
    assert half.total.dtype == torch.float32


def test_sentence_gradchecks() -> None:
    student = torch.randn(3, 4, generator=generator(7), dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, generator=generator(8), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: contrastive(x, teacher, temperature=0.5).total, (student,))
    assert torch.autograd.gradcheck(
        lambda x: parallel_sentences(x, student_target=x * 2, teacher_source=teacher).total, (student,)
    )
