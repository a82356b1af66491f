"""The fused head against the plain functions: values, gradients, chunks, dtypes and the extremes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.losses.fused import OutputLosses, linear_output_losses
from orchestrator.losses.output import exact_soft_targets, masked_lm, sparse_kl
from orchestrator.losses.targets import ExactTargets, SparseTargets, Tail, sampled_targets, top_k_targets

from .helpers import generator, teacher_top_k

M, V, D, K = 11, 60, 8, 5


def problem(dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> tuple[dict[str, Tensor], SparseTargets]:
    head = {
        "hidden": torch.randn(M, D, generator=generator(0)).to(dtype).requires_grad_(),
        "weight": torch.randn(V, D, generator=generator(1)).to(dtype).requires_grad_(),
        "bias": torch.randn(V, generator=generator(2)).to(dtype).requires_grad_(),
    }
    signal = teacher_top_k(torch.randn(M, V, generator=generator(3), dtype=dtype) * 3, K, temperature)
    ids = signal.pop("topk_ids")
    ids[0, 1:3], ids[1], ids[2, 0], ids[3, 2:4] = ids[0, 1], -1, -1, V - 1
    targets = top_k_targets(ids, log_probs=signal.pop("topk_logprobs"), temperature=temperature, **signal)
    return head, targets


def some_labels() -> Tensor:
    labels = torch.randint(0, V, (M,), generator=generator(4))
    labels[2] = labels[6] = -1
    return labels


def plain(
    head: dict[str, Tensor], targets: SparseTargets | None, temperature: float, tail: Tail, scales: tuple[float, float]
) -> OutputLosses:
    logits = F.linear(head["hidden"], head["weight"], head["bias"])
    lm = masked_lm(logits, some_labels())
    if targets is None:
        return OutputLosses(scales[0] * lm.total, lm, masked_lm(logits, torch.full((M,), -1)))
    soft = sparse_kl(logits, targets, temperature=temperature, tail=tail)
    return OutputLosses(scales[0] * lm.total + scales[1] * soft.total, lm, soft)


def gradients(total: Tensor, head: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(total, list(head.values())))


@pytest.mark.parametrize("chunk_bytes", [1, 4 * V * 4, 1 << 20])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("tail", ["ghost", "renormalise", "drop"])
def test_values_and_gradients_equal_the_plain_functions(tail: Tail, temperature: float, chunk_bytes: int) -> None:
    head, targets = problem(temperature=temperature)
    scales = (0.3, 0.7)
    expected = plain(head, targets, temperature, tail, scales)
    fused = linear_output_losses(
        **head,
        labels=some_labels(),
        targets=targets,
        temperature=temperature,
        tail=tail,
        masked_lm_scale=scales[0],
        soft_targets_scale=scales[1],
        chunk_bytes=chunk_bytes,
    )
    torch.testing.assert_close(fused.total, expected.total, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(fused[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours.total, theirs.total.detach(), atol=1e-5, rtol=1e-5)
        assert ours.count == theirs.count
        assert not ours.total.requires_grad
    for ours, theirs in zip(gradients(fused.total, head), gradients(expected.total, head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_masked_lm_alone_and_without_a_bias() -> None:
    head, _ = problem()
    expected = plain(head, None, 1.0, "ghost", (0.5, 0.0))
    fused = linear_output_losses(
        **head, labels=some_labels(), targets=None, masked_lm_scale=0.5, soft_targets_scale=0.0, temperature=4.0
    )
    torch.testing.assert_close(fused.total, expected.total)
    for ours, theirs in zip(gradients(fused.total, head), gradients(expected.total, head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert fused.soft_targets.count == 0
    assert fused.soft_targets.total == 0
    del head["bias"]
    bare = linear_output_losses(
        **head, bias=None, labels=some_labels(), targets=None, masked_lm_scale=0.5, soft_targets_scale=0.0
    )
    loss = 0.5 * masked_lm(F.linear(head["hidden"], head["weight"]), some_labels()).total
    torch.testing.assert_close(bare.total, loss)
    for ours, theirs in zip(gradients(bare.total, head), gradients(loss, head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("tail", ["ghost", "renormalise", "drop"])
def test_gradcheck(tail: Tail, temperature: float) -> None:
    head, targets = problem(torch.float64, temperature)

    def total(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_output_losses(
            hidden,
            weight=weight,
            bias=bias,
            labels=some_labels(),
            targets=targets,
            temperature=temperature,
            tail=tail,
            masked_lm_scale=0.3,
            soft_targets_scale=0.6,
            chunk_bytes=8 * V * 3,
        ).total

    assert torch.autograd.gradcheck(total, tuple(head.values()))


def test_the_upstream_gradient_scales_and_the_graph_can_be_used_twice() -> None:
    head, targets = problem()
    fused = linear_output_losses(
        **head, labels=some_labels(), targets=targets, masked_lm_scale=1.0, soft_targets_scale=1.0
    )
    once = torch.autograd.grad(fused.total, list(head.values()), retain_graph=True)
    thrice = torch.autograd.grad(fused.total * 3, list(head.values()), retain_graph=True)
    fused.total.backward(retain_graph=True)
    fused.total.backward()
    for single, triple, parameter in zip(once, thrice, head.values(), strict=True):
        torch.testing.assert_close(triple, 3 * single)
        torch.testing.assert_close(parameter.grad, 2 * single)


def test_bfloat16_is_close_to_float32_and_keeps_the_parameters_dtypes() -> None:
    head, targets = problem()
    expected = plain(head, targets, 1.0, "ghost", (1.0, 1.0))
    wanted = gradients(expected.total, head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = linear_output_losses(
            **head, labels=some_labels(), targets=targets, masked_lm_scale=1.0, soft_targets_scale=1.0, chunk_bytes=1000
        )
    half, _ = problem(torch.bfloat16)
    pure = linear_output_losses(
        **half, labels=some_labels(), targets=targets, masked_lm_scale=1.0, soft_targets_scale=1.0
    )
    for loss, parameters in ((mixed, head), (pure, half)):
        assert loss.total.dtype == torch.float32
        torch.testing.assert_close(loss.total, expected.total.detach(), rtol=2e-2, atol=0.0)
        for ours, theirs, parameter in zip(gradients(loss.total, parameters), wanted, parameters.values(), strict=True):
            assert ours.dtype == parameter.dtype
            assert (ours.float() - theirs).norm() < 2e-2 * theirs.norm()


def test_frozen_parts_and_no_grad() -> None:
    head, targets = problem()
    head["weight"].requires_grad_(False)
    options = {"labels": some_labels(), "targets": targets, "masked_lm_scale": 1.0, "soft_targets_scale": 1.0}
    linear_output_losses(**head, **options).total.backward()
    assert head["weight"].grad is None
    assert head["hidden"].grad is not None
    assert head["bias"].grad is not None
    with torch.no_grad():
        assert not linear_output_losses(**head, **options).total.requires_grad


def test_no_position_at_all() -> None:
    head, targets = problem()
    head["hidden"] = torch.zeros(0, D, requires_grad=True)
    nothing = SparseTargets(targets.ids[:0], targets.log_probs[:0])
    fused = linear_output_losses(
        **head, labels=some_labels()[:0], targets=nothing, masked_lm_scale=1.0, soft_targets_scale=1.0
    )
    fused.total.backward()
    assert fused.total.item() == 0
    assert head["weight"].grad is None or not head["weight"].grad.any()
    assert fused.masked_lm.count == fused.soft_targets.count == 0


def test_positions_without_label_and_target_change_nothing() -> None:
    head, targets = problem()
    first = linear_output_losses(
        **head, labels=some_labels(), targets=targets, masked_lm_scale=1.0, soft_targets_scale=1.0
    )
    wanted = gradients(first.total, head)
    head["hidden"] = torch.cat([head["hidden"].detach(), torch.randn(3, D) * 9]).requires_grad_()
    padded = linear_output_losses(
        **head,
        labels=F.pad(some_labels(), (0, 3), value=-1),
        targets=SparseTargets(
            F.pad(targets.ids, (0, 0, 0, 3), value=-1), F.pad(targets.log_probs, (0, 0, 0, 3), value=-math.inf)
        ),
        masked_lm_scale=1.0,
        soft_targets_scale=1.0,
    )
    torch.testing.assert_close(padded.total, first.total)
    hidden, weight, bias = gradients(padded.total, head)
    assert not hidden[M:].any()
    torch.testing.assert_close(hidden[:M], wanted[0])
    torch.testing.assert_close(weight, wanted[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bias, wanted[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gap", [5.0, 40.0, 300.0])
def test_a_student_that_leaves_the_tail_nothing_stays_finite(gap: float) -> None:
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[gap], [gap - 2], [0.0], [-1.0]], requires_grad=True)
    targets = SparseTargets(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.3]]).log())
    fused = linear_output_losses(
        hidden,
        weight=weight,
        bias=None,
        labels=torch.tensor([3]),
        targets=targets,
        masked_lm_scale=1.0,
        soft_targets_scale=1.0,
    )
    (ours,) = torch.autograd.grad(fused.total, weight)
    loss = masked_lm(hidden @ weight.T, torch.tensor([3])).total
    loss = loss + sparse_kl(hidden @ weight.T, targets, temperature=1.0, tail="ghost").total
    (theirs,) = torch.autograd.grad(loss, weight)
    assert torch.isfinite(fused.total)
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours[:2], theirs[:2])
    if gap < 60:
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(fused.total, loss.detach())


def test_every_id_kept() -> None:
    student, teacher = torch.randn(4, 6, generator=generator(5)), torch.randn(4, 6, generator=generator(6))
    log_probs, ids = teacher.log_softmax(-1).topk(6)
    weight = torch.eye(6, requires_grad=True)
    fused = linear_output_losses(
        student.requires_grad_(),
        weight=weight,
        bias=None,
        labels=torch.full((4,), -1),
        targets=SparseTargets(ids, log_probs),
        masked_lm_scale=1.0,
        soft_targets_scale=1.0,
    )
    expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="sum")
    torch.testing.assert_close(fused.total, expected.detach(), atol=1e-5, rtol=1e-5)
    (ours,) = torch.autograd.grad(fused.total, student)
    torch.testing.assert_close(ours, (student.softmax(-1) - teacher.softmax(-1)).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_exact_targets_with_masked_lm(temperature: float, mapped: bool) -> None:
    head, _ = problem()
    vocab = V + 7 if mapped else V
    student_ids = torch.randint(-1, V, (vocab,), generator=generator(10)) if mapped else None
    targets = ExactTargets(
        torch.randn(M, 4, generator=generator(11)),
        torch.randn(vocab, 4, generator=generator(12)),
        torch.randn(vocab, generator=generator(13)),
        student_ids,
    )
    logits = F.linear(head["hidden"], head["weight"], head["bias"])
    lm = masked_lm(logits, some_labels())
    soft = exact_soft_targets(logits, targets=targets, temperature=temperature)
    fused = linear_output_losses(
        **head,
        labels=some_labels(),
        targets=targets,
        temperature=temperature,
        masked_lm_scale=0.4,
        soft_targets_scale=0.9,
        chunk_bytes=V * 4 * 4,
    )
    torch.testing.assert_close(fused.masked_lm.total, lm.total.detach())
    torch.testing.assert_close(fused.soft_targets.total, soft.total.detach(), atol=1e-5, rtol=1e-5)
    assert fused.soft_targets.count == soft.count == M
    expected = gradients(0.4 * lm.total + 0.9 * soft.total, head)
    for ours, theirs in zip(gradients(fused.total, head), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_sampled_targets() -> None:
    head, _ = problem()
    ids = torch.randint(-1, V, (M, 20), generator=generator(14))
    targets = sampled_targets(ids, counts=torch.randint(0, 4, (M, 20), generator=generator(15)))
    expected = plain(head, targets, 1.0, "drop", (0.0, 1.0))
    fused = linear_output_losses(
        **head, labels=some_labels(), targets=targets, tail="drop", masked_lm_scale=0.0, soft_targets_scale=1.0
    )
    torch.testing.assert_close(fused.total, expected.total.detach(), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(fused.total, head), gradients(expected.total, head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
