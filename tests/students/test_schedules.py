"""Weights that follow a schedule."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.objectives import RampSection, WindowSection
from orchestrator.students.schedules import weight_at


def test_a_number_stays() -> None:
    assert weight_at(0.3, step=7, steps=9) == 0.3


def test_a_linear_ramp_by_hand() -> None:
    ramp = RampSection(schedule="linear", start=2.0, end=0.0, first_step=3, last_step=7)
    assert [weight_at(ramp, step=step, steps=10) for step in range(1, 11)] == [2, 2, 2, 1.5, 1, 0.5, 0, 0, 0, 0]


def test_a_cosine_ramp_ends_with_the_phase_by_default() -> None:
    ramp = RampSection(schedule="cosine", end=4.0)
    values = [weight_at(ramp, step=step, steps=5) for step in range(1, 6)]
    assert values == pytest.approx([0.0, 4 * 0.14644661, 2.0, 4 * 0.85355339, 4.0])


def test_a_window_is_open_from_its_first_to_its_last_step() -> None:
    window = WindowSection(schedule="window", value=0.5, first_step=2, last_step=3)
    assert [weight_at(window, step=step, steps=4) for step in range(1, 5)] == [0.0, 0.5, 0.5, 0.0]
    assert weight_at(WindowSection(schedule="window", first_step=4), step=9, steps=9) == 1.0


@given(
    schedule=st.sampled_from(["linear", "cosine"]),
    start=st.floats(0, 5),
    end=st.floats(0, 5),
    first=st.integers(1, 20),
    length=st.integers(0, 20),
)
def test_a_ramp_never_turns_nor_leaves_its_ends(
    schedule: str, start: float, end: float, first: int, length: int
) -> None:
    ramp = RampSection.model_validate(
        {"schedule": schedule, "start": start, "end": end, "first_step": first, "last_step": first + length}
    )
    values = [weight_at(ramp, step=step, steps=60) for step in range(1, 61)]
    assert values[-1] == end
    assert length == 0 or values[first - 1] == start
    slack = 1e-12
    assert all(min(start, end) - slack <= value <= max(start, end) + slack for value in values)
    rising = [two - one for one, two in pairwise(values)]
    assert all(step * (end - start) >= -slack for step in rising)
