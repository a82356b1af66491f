"""Our losses on sentence vectors against those of sentence-transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator.losses.hidden import hidden_cosine
from orchestrator.losses.sentences import contrastive, mean_pool, parallel_sentences

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses", exc_type=ImportError)
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules", exc_type=ImportError)

B, L, D = 6, 5, 8


def vectors(count: int, *shape: int) -> list[Tensor]:
    own = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=own).requires_grad_() for _ in range(count)]


def assert_same(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_parallel_sentences() -> None:
    """Theirs is a mean over the width and over source and translation, ours a sum over both."""
    source, target, teacher = vectors(3, B, D)
    total, count = parallel_sentences(source, student_target=target, teacher_source=teacher)
    theirs = losses.MSELoss(None).compute_loss_from_embeddings([source, target], [teacher.detach()] * 2)
    assert_same(total / count, theirs * D * 2, source, target)


def test_cosine() -> None:
    student, teacher = vectors(2, B, D)
    total, count = hidden_cosine(student, teacher)
    theirs = losses.EmbedDistillLoss(None, "cosine").compute_loss_from_embeddings([student], [teacher.detach()])
    assert_same(total / count, theirs, student)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_contrastive(temperature: float) -> None:
    student, teacher = vectors(2, B, D)
    total, count = contrastive(student, teacher, temperature=temperature)
    reference = losses.MultipleNegativesRankingLoss(None, scale=1 / temperature)
    theirs = reference.compute_loss_from_embeddings([student, teacher.detach()], None)
    assert_same(total / count, theirs, student)


def test_mean_pooling() -> None:
    (hidden,) = vectors(1, B, L, D)
    valid = torch.arange(L) < torch.tensor([1, 2, 3, 4, 5, 5]).unsqueeze(-1)
    features = {"token_embeddings": hidden, "attention_mask": valid.long()}
    theirs = modules.Pooling(D, "mean")(features)["sentence_embedding"]
    assert_same(mean_pool(hidden, valid=valid).square().sum(), theirs.square().sum(), hidden)
