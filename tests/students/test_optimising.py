"""The learning rate over a run, and gradients clipped by the students that use a parameter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from orchestrator.config.phases import PhaseSpec, whole_training
from orchestrator.config.run import TrainingSection
from orchestrator.students.optimising import clip_gradients, learning_rate, make_optimiser, set_learning_rate


def training(**options: object) -> TrainingSection:
    usual = {"steps": 100, "learning_rate": 2.0, "warmup_share": 0.1}
    return TrainingSection.model_validate(usual | options)


def rate(step: int, section: TrainingSection) -> float:
    return learning_rate(step, section, whole_training((), section))


def test_warm_up_is_linear_and_decays_end_where_they_should() -> None:
    linear = training()
    assert rate(1, linear) == pytest.approx(0.2)
    assert rate(5, linear) == pytest.approx(1.0)
    assert rate(10, linear) == 2.0
    assert rate(55, linear) == pytest.approx(1.0)
    assert rate(100, linear) == 0.0
    cosine = training(decay="cosine")
    assert rate(55, cosine) == pytest.approx(1.0)
    assert rate(100, cosine) == pytest.approx(0.0)
    assert rate(25, cosine) > rate(25, linear)
    assert {rate(step, training(decay="constant")) for step in range(10, 101)} == {2.0}


@given(
    steps=st.integers(1, 300),
    warmup_share=st.floats(0, 1),
    decay=st.sampled_from(["linear", "cosine", "constant"]),
)
def test_the_rate_rises_to_its_height_once_and_never_leaves_the_range(
    steps: int, warmup_share: float, decay: str
) -> None:
    section = training(steps=steps, warmup_share=warmup_share, decay=decay)
    rates = [rate(step, section) for step in range(1, steps + 1)]
    assert max(rates) == 2.0
    assert min(rates) >= 0.0
    top = rates.index(2.0)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_phase_with_a_rate_of_its_own_warms_up_and_decays_within_itself() -> None:
    section = training()
    own = PhaseSpec("b", 41, 60, (), learning_rate=0.5)
    alone = training(steps=20, learning_rate=0.5)
    for step in range(41, 61):
        assert learning_rate(step, section, own) == rate(step - 40, alone)
    without = PhaseSpec("b", 41, 60, ())
    assert learning_rate(50, section, without) == rate(50, section)


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    matrix, vector = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2))
    optimiser = make_optimiser([vector, matrix], training(weight_decay=0.5))
    set_learning_rate(optimiser, 0.1)
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimiser.step()
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), 0.95))
    torch.testing.assert_close(vector.detach(), torch.ones(2))


def with_gradient(*values: float) -> Parameter:
    parameter = Parameter(torch.zeros(len(values)))
    parameter.grad = torch.tensor(values)
    return parameter


def test_each_part_is_clipped_by_its_own_norm() -> None:
    loud, calm, shared = with_gradient(30.0, 40.0), with_gradient(0.3, 0.4), with_gradient(0.0, 5.0)
    untouched = Parameter(torch.zeros(1))
    parts = {("a",): {"loud": loud, "untouched": untouched}, ("b",): {"calm": calm}, ("a", "b"): {"shared": shared}}
    norms = clip_gradients(parts, max_norm=1.0)
    for parameter, expected in ((loud, [0.6, 0.8]), (calm, [0.3, 0.4]), (shared, [0.0, 1.0])):
        torch.testing.assert_close(parameter.grad, torch.tensor(expected), atol=1e-5, rtol=0)
    assert untouched.grad is None
    assert float(norms["a"]) == pytest.approx((50**2 + 5**2) ** 0.5)
    assert float(norms["b"]) == pytest.approx((0.5**2 + 5**2) ** 0.5)


def test_a_broken_gradient_shows_in_the_norm_of_those_who_use_it() -> None:
    parts = {("a",): {"x": with_gradient(float("inf"))}, ("b",): {"y": with_gradient(1.0)}}
    norms = clip_gradients(parts, max_norm=1.0)
    assert not torch.isfinite(norms["a"])
    assert torch.isfinite(norms["b"])
