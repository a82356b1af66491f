"""Attention scores, probabilities and relations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.losses.attention import (
    attention_kl,
    attention_pairs,
    attention_scores,
    attention_scores_mse,
    join_heads,
    relation_kl,
    split_heads,
)
from orchestrator.losses.base import LossSum

from .helpers import generator

B, L, H, D = 2, 5, 2, 8
VALID = torch.tensor([[True, True, True, False, False], [True, True, True, True, True]])


def projected(seed: int, width: int = D, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, L, width, generator=generator(seed), dtype=dtype)


def scores(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return attention_scores(projected(seed, dtype=dtype), projected(seed + 100, dtype=dtype), num_heads=H)


def relation(student: Tensor, teacher: Tensor, *, pairs: Tensor) -> LossSum:
    return relation_kl(student, teacher, num_relation_heads=H, pairs=pairs)


def test_pairs_by_hand() -> None:
    valid = torch.tensor([[True, True, True, False]])
    assert attention_pairs(valid).int().tolist() == [[[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]]
    assert attention_pairs(valid, window=1).int().tolist() == [[[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]


def test_scores_by_hand() -> None:
    query = torch.tensor([[[1.0, 0, 0, 2], [0, 3, 1, 0], [1, 1, 1, 1]]])
    found = attention_scores(query, query, num_heads=2)
    root = math.sqrt(2)
    first = [[1, 0, 1], [0, 9, 3], [1, 3, 2]]
    second = [[4, 0, 2], [0, 1, 1], [2, 1, 2]]
    torch.testing.assert_close(found, torch.tensor([[first, second]]) / root)


def test_heads_are_split_and_joined_token_by_token() -> None:
    states = projected(0)
    heads = split_heads(states, num_heads=H)
    assert heads.shape == (B, H, L, D // H)
    torch.testing.assert_close(heads[1, 1, 3], states[1, 3, D // H :])
    torch.testing.assert_close(join_heads(heads), states)


def test_scores_mse_by_hand() -> None:
    student = torch.arange(12.0).reshape(1, 1, 3, 4)[..., :3].contiguous().requires_grad_()
    pairs = attention_pairs(torch.tensor([[True, True, False]]))
    teacher = student.detach().clone()
    teacher[0, 0, 0, 1] += 2
    teacher[0, 0, 1, 0] -= 1
    teacher[0, 0, 2] += 1e4  # the additive mask of a padded row
    teacher[..., 2] -= 1e4
    loss = attention_scores_mse(student, teacher, pairs=pairs)
    assert loss.total.item() == pytest.approx(5)
    assert loss.count.item() == 4
    loss.total.backward()
    torch.testing.assert_close(student.grad, torch.tensor([[[[0.0, -4, 0], [2, 0, 0], [0, 0, 0]]]]))


def test_attention_kl_by_hand() -> None:
    teacher = torch.tensor([[[[0.5, 0.5, 1.0], [0.2, 0.8, 1.0], [1.0, 1.0, 1.0]]]]).log()
    student = torch.tensor([[[[0.25, 0.75, 9.0], [0.2, 0.8, 0.1], [0.3, 0.1, 1.0]]]]).log()
    loss = attention_kl(student, teacher, pairs=attention_pairs(torch.tensor([[True, True, False]])))
    assert loss.total.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75), abs=1e-6)
    assert loss.count.item() == 2


def test_attention_kl_agrees_with_torch_sequence_by_sequence() -> None:
    student, teacher = scores(1), scores(2)
    expected = torch.zeros(())
    for row, length in enumerate(VALID.sum(-1).tolist()):
        own, other = student[row, :, :length, :length], teacher[row, :, :length, :length]
        expected += F.kl_div(own.log_softmax(-1), other.softmax(-1), reduction="sum")
    loss = attention_kl(student, teacher, pairs=attention_pairs(VALID))
    torch.testing.assert_close(loss.total, expected)
    assert loss.count.item() == H * int(VALID.sum())


def test_attention_scores_are_those_of_torch() -> None:
    query, key, value = projected(3), projected(4), projected(5)
    probs = attention_scores(query, key, num_heads=H).masked_fill(~attention_pairs(VALID)[:, None], -1e30).softmax(-1)
    ours = join_heads(probs @ split_heads(value, num_heads=H))
    theirs = F.scaled_dot_product_attention(
        *(split_heads(x, num_heads=H) for x in (query, key, value)), attn_mask=VALID[:, None, None, :]
    )
    torch.testing.assert_close(ours[VALID], join_heads(theirs)[VALID])


@pytest.mark.parametrize("relation_heads", [1, 2, 4])
def test_relations_between_different_widths(relation_heads: int) -> None:
    student, teacher = projected(6, 8).requires_grad_(), projected(7, 12)
    loss = relation_kl(student, teacher, num_relation_heads=relation_heads, pairs=attention_pairs(VALID))
    expected = torch.zeros(())
    for row, length in enumerate(VALID.sum(-1).tolist()):
        for head in range(relation_heads):
            logs = []
            for states in (student, teacher):
                width = states.shape[-1] // relation_heads
                part = states[row, :length, head * width : (head + 1) * width]
                logs.append((part @ part.T / math.sqrt(width)).log_softmax(-1))
            expected = expected + F.kl_div(logs[0], logs[1], log_target=True, reduction="sum")
    torch.testing.assert_close(loss.total, expected)
    assert loss.count.item() == relation_heads * int(VALID.sum())


LOSSES = [(attention_scores_mse, scores), (attention_kl, scores), (relation, projected)]


@pytest.mark.parametrize(("loss", "make"), LOSSES)
def test_zero_at_equality_and_no_gradient_to_the_teacher(
    loss: Callable[..., LossSum], make: Callable[..., Tensor]
) -> None:
    student, teacher = make(8).requires_grad_(), make(8).requires_grad_()
    value = loss(student, teacher, pairs=attention_pairs(VALID))
    value.total.backward()
    assert abs(value.total.item()) < 1e-6
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-6


@pytest.mark.parametrize(("loss", "make"), LOSSES)
def test_padding_changes_nothing(loss: Callable[..., LossSum], make: Callable[..., Tensor]) -> None:
    student, teacher, pairs = make(9), make(10), attention_pairs(VALID)
    value = loss(student, teacher, pairs=pairs)
    dirty = make(11) * 50
    padded = pairs.unsqueeze(1).expand_as(student) if student.dim() == 4 else VALID.unsqueeze(-1).expand_as(student)
    other = torch.where(padded, student, dirty).requires_grad_()
    again = loss(other, torch.where(padded, teacher, -dirty), pairs=pairs)
    torch.testing.assert_close(again.total, value.total)
    assert again.count == value.count
    again.total.backward()
    assert other.grad is not None
    assert not other.grad[~padded].any()


@pytest.mark.parametrize(("loss", "make"), LOSSES)
def test_micro_batches_equal_one_batch(loss: Callable[..., LossSum], make: Callable[..., Tensor]) -> None:
    student, teacher, pairs = make(12), make(13), attention_pairs(VALID)
    whole = loss(student, teacher, pairs=pairs)
    parts = [loss(student[r], teacher[r], pairs=pairs[r]) for r in (slice(0, 1), slice(1, 2))]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    assert parts[0].count + parts[1].count == whole.count


@pytest.mark.parametrize(("loss", "make"), LOSSES)
def test_gradcheck(loss: Callable[..., LossSum], make: Callable[..., Tensor]) -> None:
    student, teacher = make(14, dtype=torch.float64).requires_grad_(), make(15, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, pairs=attention_pairs(VALID)).total, (student,))


def test_float32_under_autocast() -> None:
    query, key = projected(16).bfloat16(), projected(17).bfloat16()
    expected = attention_scores(query.float(), key.float(), num_heads=H)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention_scores(query, key, num_heads=H)
        loss = relation(query, key, pairs=attention_pairs(VALID))
    torch.testing.assert_close(found, expected)
    assert loss.total.dtype == torch.float32
