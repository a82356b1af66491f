"""Masked LM and sparse soft targets: values and gradients by hand, invariances, and the extremes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.losses.output import log_partition, masked_lm, sparse_kl, sparse_soft_targets
from orchestrator.losses.targets import SparseTargets, Tail, merge_duplicates, top_k_targets

from .helpers import generator, slow_sparse_kl, teacher_top_k

TAILS: list[Tail] = ["ghost", "renormalise", "drop"]


def probabilities(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).log().requires_grad_()


def three_by_four() -> torch.Tensor:
    return probabilities([0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1])


def test_masked_lm_by_hand() -> None:
    logits = three_by_four()
    loss = masked_lm(logits, torch.tensor([1, -1, 0]))
    assert loss.total.item() == pytest.approx(-math.log(0.3) - math.log(0.7))
    assert loss.count.item() == 2
    loss.total.backward()
    expected = torch.tensor([[0.4, -0.7, 0.2, 0.1], [0, 0, 0, 0], [-0.3, 0.1, 0.1, 0.1]])
    torch.testing.assert_close(logits.grad, expected)


def test_masked_lm_agrees_with_torch_and_reuses_the_log_partition() -> None:
    logits = torch.randn(20, 50, generator=generator(0)) * 5
    labels = torch.randint(0, 50, (20,), generator=generator(1))
    labels[::4] = -1
    expected = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(masked_lm(logits, labels).total, expected)
    shared = masked_lm(logits, labels, log_partition=log_partition(logits, 1.0))
    torch.testing.assert_close(shared.total, expected)


def test_half_precision_is_widened_before_any_arithmetic() -> None:
    logits = (torch.randn(6, 300, generator=generator(2)) * 4).bfloat16().requires_grad_()
    wide = logits.detach().float().requires_grad_()
    labels = torch.arange(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = masked_lm(logits, labels)
        soft = sparse_soft_targets(logits, **teacher_top_k(wide.detach().flip(0), 8, 2.0), temperature=2.0)
    assert loss.total.dtype == soft.total.dtype == torch.float32
    torch.testing.assert_close(loss.total, masked_lm(wide, labels).total)
    (loss.total + soft.total).backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_ghost_by_hand() -> None:
    logits = three_by_four()
    ids = torch.tensor([[0, 1], [2, -1], [-1, -1]])
    log_probs = torch.tensor([[0.5, 0.2], [0.6, 0.3], [0.9, 0.1]]).log()
    loss = sparse_soft_targets(
        logits, topk_ids=ids, topk_logprobs=log_probs, logsumexp=torch.zeros(3), temperature=1.0, tail="ghost"
    )
    first = 0.5 * math.log(0.5 / 0.4) + 0.2 * math.log(0.2 / 0.3)
    second = 0.6 * math.log(0.6 / 0.25) + 0.4 * math.log(0.4 / 0.75)
    assert loss.total.item() == pytest.approx(first + second, abs=1e-6)
    assert loss.count.item() == 2
    loss.total.backward()
    # Kept: p − t. Tail: p − (1−a)·p/(1−s).
    expected = torch.tensor(
        [
            [-0.1, 0.1, 0.2 - 0.3 * 2 / 3, 0.1 - 0.3 / 3],
            [0.25 - 0.4 / 3, 0.25 - 0.4 / 3, -0.35, 0.25 - 0.4 / 3],
            [0.0] * 4,
        ]
    )
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("tail", TAILS)
def test_sparse_targets_agree_with_the_slow_version(tail: Tail, temperature: float) -> None:
    student = (torch.randn(9, 30, generator=generator(3), dtype=torch.float64) * 3).requires_grad_()
    signal = teacher_top_k(torch.randn(9, 30, generator=generator(4), dtype=torch.float64) * 3, 6, temperature)
    signal["topk_ids"][0, 2:5] = signal["topk_ids"][0, 2]  # three teacher ids became one
    signal["topk_ids"][1, 0] = signal["topk_ids"][1, 3]
    signal["topk_ids"][2, 1] = -1
    signal["topk_ids"][4, 1:3] = 29  # the same for the largest id
    signal["topk_ids"][5, 0] = -1
    signal["topk_ids"][3] = -1
    probs = (
        (signal["topk_logprobs"] + signal["logsumexp"][:, None]) / temperature - signal["logsumexp_t"][:, None]
    ).exp()
    expected, count = slow_sparse_kl(student, signal["topk_ids"], probs, tail, temperature)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    loss = sparse_soft_targets(student, **signal, temperature=temperature, tail=tail)
    (gradient,) = torch.autograd.grad(loss.total, student)
    torch.testing.assert_close(loss.total, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-5)
    assert loss.count.item() == count == 8


@pytest.mark.parametrize("tail", TAILS)
def test_gradcheck(tail: Tail) -> None:
    student = torch.randn(4, 9, generator=generator(5), dtype=torch.float64, requires_grad=True)
    signal = teacher_top_k(torch.randn(4, 9, generator=generator(6), dtype=torch.float64), 3, 2.0)
    assert torch.autograd.gradcheck(
        lambda z: sparse_soft_targets(z, **signal, temperature=2.0, tail=tail).total, (student,)
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_every_id_kept_is_the_dense_divergence(temperature: float) -> None:
    student, teacher = torch.randn(5, 12, generator=generator(7)), torch.randn(5, 12, generator=generator(8))
    dense = (
        F.kl_div(
            (student / temperature).log_softmax(-1),
            (teacher / temperature).log_softmax(-1),
            log_target=True,
            reduction="sum",
        )
        * temperature**2
    )
    for tail in TAILS:
        student.requires_grad_().grad = None
        loss = sparse_soft_targets(
            student, **teacher_top_k(teacher, 12, temperature), temperature=temperature, tail=tail
        )
        torch.testing.assert_close(loss.total, dense, atol=1e-5, rtol=1e-5)
        loss.total.backward()
        expected = ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)) * temperature
        torch.testing.assert_close(student.grad, expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_zero_at_equality(temperature: float) -> None:
    teacher = torch.randn(6, 40, generator=generator(9)) * 3
    student = teacher.clone().requires_grad_()
    loss = sparse_soft_targets(student, **teacher_top_k(teacher, 5, temperature), temperature=temperature)
    assert abs(loss.total.item()) < 1e-5
    loss.total.backward()
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-5


@pytest.mark.parametrize("tail", TAILS)
def test_micro_batches_and_empty_positions_change_nothing(tail: Tail) -> None:
    student = torch.randn(8, 20, generator=generator(10))
    signal = teacher_top_k(torch.randn(8, 20, generator=generator(11)), 4, 1.0)
    whole = sparse_soft_targets(student, **signal, tail=tail)
    parts = [
        sparse_soft_targets(student[rows], **{name: column[rows] for name, column in signal.items()}, tail=tail)
        for rows in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    assert parts[0].count + parts[1].count == whole.count
    padded = {name: torch.cat([column, column[:2]]) for name, column in signal.items()}
    padded["topk_ids"][8:] = -1
    again = sparse_soft_targets(torch.cat([student, student[:2] * 9]), **padded, tail=tail)
    torch.testing.assert_close(again.total, whole.total)
    assert again.count == whole.count


def test_no_gradient_reaches_the_teacher() -> None:
    student = torch.randn(3, 10, generator=generator(12), requires_grad=True)
    signal = teacher_top_k(torch.randn(3, 10, generator=generator(13)), 3, 2.0)
    for name in ("topk_logprobs", "logsumexp", "logsumexp_t"):
        signal[name].requires_grad_()
    sparse_soft_targets(student, **signal, temperature=2.0).total.backward()
    assert student.grad is not None
    assert all(column.grad is None for column in signal.values())


@pytest.mark.parametrize("tail", TAILS)
def test_no_id_kept_anywhere_is_nothing(tail: Tail) -> None:
    student = torch.randn(2, 5, generator=generator(14), requires_grad=True)
    loss = sparse_soft_targets(
        student, topk_ids=torch.full((2, 3), -1), topk_logprobs=torch.zeros(2, 3), logsumexp=torch.zeros(2), tail=tail
    )
    loss.total.backward()
    assert loss.total.item() == 0
    assert loss.count.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_the_tail_keeps_its_precision_when_the_student_leaves_it_nothing() -> None:
    # 1 − s is about 1e-22 here, far below what 1 − Σp could show in float32.
    logits = torch.tensor([[50.0, 48.0, 0.0, -1.0]], requires_grad=True)
    loss = sparse_soft_targets(
        logits,
        topk_ids=torch.tensor([[0, 1]]),
        topk_logprobs=torch.tensor([[0.5, 0.3]]).log(),
        logsumexp=torch.zeros(1),
    )
    exact = logits.detach().double().log_softmax(-1)
    log_tail = exact[0, 2:].logsumexp(-1).item()
    value = 0.5 * (math.log(0.5) - exact[0, 0].item()) + 0.3 * (math.log(0.3) - exact[0, 1].item())
    assert loss.total.item() == pytest.approx(value + 0.2 * (math.log(0.2) - log_tail), rel=1e-5)
    loss.total.backward()
    p = exact.exp().float()[0]
    share = torch.tensor([0.0, -1.0]).softmax(-1)
    torch.testing.assert_close(logits.grad, torch.stack([p[0] - 0.5, p[1] - 0.3, *(-0.2 * share)])[None])


@pytest.mark.parametrize("tail", TAILS)
def test_rounded_mass_above_one_and_a_missing_tail_stay_finite(tail: Tail) -> None:
    logits = torch.tensor([[30.0, -30.0, 2.0]], requires_grad=True)
    for ids, probs in (
        ([[0, 1, 2]], [[0.7, 0.2, 0.0995]]),
        ([[0, 1, 2]], [[0.7, 0.2, 0.101]]),
        ([[0, 1, -1]], [[1.0, 1e-3, 0.0]]),
    ):
        logits.grad = None
        loss = sparse_soft_targets(
            logits,
            topk_ids=torch.tensor(ids),
            topk_logprobs=torch.tensor(probs).log(),
            logsumexp=torch.zeros(1),
            tail=tail,
        )
        loss.total.backward()
        assert logits.grad is not None
        assert torch.isfinite(loss.total)
        assert torch.isfinite(logits.grad).all()


def test_a_temperature_without_its_partition_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature 2\.0"):
        sparse_soft_targets(
            torch.zeros(1, 3),
            topk_ids=torch.zeros(1, 1, dtype=torch.int64),
            topk_logprobs=torch.zeros(1, 1),
            logsumexp=torch.zeros(1),
            temperature=2.0,
        )


def test_optimum_of_a_dropped_tail_is_over_confident_and_of_a_ghost_is_not() -> None:
    log_t = torch.tensor([[0.5, 0.1]]).log()
    targets = SparseTargets(torch.tensor([[0, 1]]), log_t)
    for tail, best in (("ghost", 0.5), ("drop", 0.5 / 0.6), ("renormalise", 0.5 / 0.6)):
        logits = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

        def step(tail: Tail = tail, logits: torch.Tensor = logits) -> torch.Tensor:
            logits.grad = None
            value = sparse_kl(logits, targets, temperature=1.0, tail=tail).total
            value.backward()
            return value

        optimiser.step(step)
        assert logits.softmax(-1)[0, 0].item() == pytest.approx(best, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 4), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 1000))
def test_merging_keeps_every_mass_and_leaves_no_duplicate(rows: list[list[int]], seed: int) -> None:
    ids = torch.tensor(rows)
    probs = torch.rand(ids.shape, generator=generator(seed)) / 5 + 1e-4
    merged = merge_duplicates(ids, log_probs=probs.log())
    dense = torch.zeros(len(rows), 6).scatter_add_(1, ids + 1, probs)[:, 1:]
    again = torch.zeros(len(rows), 6).scatter_add_(1, merged.ids + 1, merged.log_probs.exp())
    torch.testing.assert_close(again[:, 1:], dense)
    assert not again[:, 0].any()
    for row in merged.ids.tolist():
        kept = [token for token in row if token >= 0]
        assert len(kept) == len(set(kept))


def test_a_row_never_sums_above_one() -> None:
    targets = top_k_targets(
        torch.tensor([[0, 1]]),
        log_probs=torch.tensor([[0.9, 0.2]]).log(),
        logsumexp=torch.zeros(1),
        logsumexp_t=None,
        temperature=1.0,
    )
    assert targets.log_probs.exp().sum().item() == pytest.approx(1.0)
