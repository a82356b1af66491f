"""Our losses against TextBrewer's, where both define the same thing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator.losses.attention import attention_kl, attention_pairs, attention_scores_mse
from orchestrator.losses.hidden import hidden_cosine, hidden_mse, normalised_mse
from orchestrator.losses.output import exact_soft_targets, logit_matching, soft_targets
from orchestrator.losses.targets import ExactTargets

reference = pytest.importorskip("textbrewer.losses", reason="textbrewer is not installed")

B, L, H, D, V = 3, 6, 4, 10, 25
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
VALID = MASK.bool()


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=own).requires_grad_(), torch.randn(*shape, generator=own)


def assert_same(ours: Tensor, theirs: Tensor, student: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    (our_gradient,) = torch.autograd.grad(ours, student)
    (their_gradient,) = torch.autograd.grad(theirs, student)
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-5)


def test_hidden_mse() -> None:
    student, teacher = pair(B, L, D)
    total, count = hidden_mse(student, teacher, valid=VALID)
    assert_same(total / count, reference.hid_mse_loss(student, teacher, MASK), student)


def test_cosine() -> None:
    student, teacher = pair(B, L, D)
    total, count = hidden_cosine(student, teacher, valid=VALID)
    assert_same(total / count, reference.cos_loss(student, teacher, MASK), student)


def test_pkd() -> None:
    student, teacher = pair(B, L, D)
    total, count = normalised_mse(student[:, 0], teacher[:, 0])
    assert_same(total / count, reference.pkd_loss(student, teacher), student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets(temperature: float) -> None:
    """Theirs is the cross-entropy without T²: the teacher's entropy apart, T² times theirs is ours."""
    student, teacher = pair(B * L, V)
    total, count = soft_targets(student, teacher_logits=teacher, temperature=temperature)
    probs = (teacher / temperature).softmax(-1)
    entropy = -(probs * probs.log()).sum(-1).mean()
    theirs = (reference.kd_ce_loss(student, teacher, temperature) - entropy) * temperature**2
    assert_same(total / count, theirs, student)


def test_exact_soft_targets() -> None:
    student, states = pair(B * L, V)
    weight, bias = pair(V, V)
    targets = ExactTargets(states, weight.detach(), bias[0])
    total, count = exact_soft_targets(student, targets=targets)
    teacher = torch.nn.functional.linear(states, weight.detach(), bias[0])
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    assert_same(total / count, reference.kd_ce_loss(student, teacher) - entropy, student)


def test_logit_matching() -> None:
    """Theirs is a mean over the vocabulary, ours half a sum."""
    student, teacher = pair(B * L, V)
    total, count = logit_matching(student, teacher_logits=teacher)
    assert_same(total / count, reference.kd_mse_loss(student, teacher) * V / 2, student)


def test_attention_scores_mse() -> None:
    student, teacher = pair(B, H, L, L)
    total, count = attention_scores_mse(student, teacher, pairs=attention_pairs(VALID))
    assert_same(total / count, reference.att_mse_loss(student, teacher, MASK), student)


def test_attention_kl() -> None:
    """Theirs leaves padded columns in the softmax, so the sequences are compared without padding."""
    student, teacher = pair(B, H, L, L)
    pairs = attention_pairs(torch.ones(B, L, dtype=torch.bool))
    total, count = attention_kl(student, teacher, pairs=pairs)
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    assert_same(total / count, reference.att_ce_loss(student, teacher, torch.ones(B, L)) - entropy, student)
