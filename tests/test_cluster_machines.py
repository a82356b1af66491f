"""What fits on machines: by hand, and against placing worker by worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster import Machine, Need, even_cpus, even_gpus, room, without

SMALL, LARGE = Machine(2.0), Machine(8.0, 2.0, {"node": 1.0})


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Need(1.0), 10),
        (Need(3.0), 2),
        (Need(0.5), 20),
        (Need(1.0, 1.0), 2),
        (Need(1.0, 0.25), 8),  # four teachers share a GPU, and each has a CPU
        (Need(0.1, 0.4), 4),  # two parts of 0.4 on each of two GPUs, and not five on both
        (Need(0.1, 2.0), 1),
        (Need(1.0, resources={"node": 0.5}), 2),
        (Need(1.0, resources={"TPU": 1.0}), 0),
        (Need(9.0), 0),
    ],
)
def test_how_many_workers_fit(need: Need, expected: int) -> None:
    assert room([SMALL, LARGE], need) == expected


MACHINES = st.lists(st.builds(Machine, cpus=st.integers(0, 12), gpus=st.integers(0, 4)), min_size=1, max_size=4)
NEEDS = st.builds(Need, cpus=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]), gpus=st.sampled_from([0.0, 0.5, 1.0, 2.0]))


@given(machines=MACHINES, need=NEEDS, count=st.integers(0, 60))
def test_what_is_placed_and_what_still_fits_make_the_whole_room(
    machines: list[Machine], need: Need, count: int
) -> None:
    whole, left = room(machines, need), without(machines, need, count)
    assert room(left, need) == max(0, whole - count)
    assert all(machine.cpus >= 0 and machine.gpus >= 0 for machine in left)


@given(machines=MACHINES, count=st.integers(1, 12))
def test_an_even_share_is_the_largest_with_which_all_run_at_once(machines: list[Machine], count: int) -> None:
    share = even_cpus(machines, count)
    if room(machines, Need(1.0)) >= count:
        assert share == int(share) >= 1
        assert room(machines, Need(share)) >= count > room(machines, Need(share + 1))
    else:
        assert share == min(1, max(machine.cpus for machine in machines))


@pytest.mark.parametrize(
    ("gpus", "count", "expected"),
    [((0,), 3, 0.0), ((1,), 1, 1.0), ((1,), 4, 0.25), ((2, 1), 3, 1.0), ((2, 2), 6, 0.5), ((0.5,), 2, 0.25)],
)
def test_gpus_are_shared_when_there_are_fewer_than_workers(
    gpus: tuple[float, ...], count: int, expected: float
) -> None:
    machines = [Machine(4.0, float(number)) for number in gpus]
    assert even_gpus(machines, count) == expected
    if expected:
        assert room(machines, Need(0.1, expected)) >= count


def test_a_machine_is_named_by_what_it_has() -> None:
    assert str(Need(0.5, 0.25, {"TPU": 2.0})) == "0.5 CPUs and 0.25 GPUs, 2 TPU"
