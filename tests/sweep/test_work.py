"""How many cells run at once, and what each of them has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cluster import Cluster, InProcess, Machine, Need, Outcome, Pool, PoolPlan
from orchestrator.cluster.units import R, U, Work
from orchestrator.config.loading import parse_config
from orchestrator.config.setups import expand
from orchestrator.run import Run
from orchestrator.sweep.opening import CellRun
from orchestrator.sweep.work import Room, share_out, with_threads


class Pretended(Cluster):
    """Cores and GPUs that nothing runs on."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self._machine = Machine(cpus, gpus)

    @property
    def machines(self) -> tuple[Machine, ...]:
        return (self._machine,)

    def _outcomes(self, work: Work[U, R]) -> Iterator[Outcome[U, R]]:
        raise NotImplementedError

    @contextmanager
    def pool(self, plan: PoolPlan[U, R]) -> Iterator[Pool[U, R]]:
        raise NotImplementedError
        yield


def cell(**sections: object) -> CellRun:
    tree = {
        "corpus": {"languages": {"en": "en.txt"}},
        "teachers": {"t": {"model": "somewhere", "languages": ["en"]}},
        "student": {"layers": 1, "hidden_size": 8, "heads": 2},
        "objectives": [{"type": "masked-lm"}],
    }
    return CellRun("a", 1, Run(expand(parse_config(tree | sections, where="test")), "in-process"))


@pytest.mark.parametrize(
    ("cpus", "gpus", "parallel", "expected"),
    [
        (2, 0, None, Room(2, Need(1.0, 0.0))),
        (16, 0, None, Room(6, Need(2.0, 0.0))),
        (16, 0, 2, Room(2, Need(8.0, 0.0))),
        (1, 0, 4, Room(1, Need(1.0, 0.0))),
        (16, 1, 4, Room(4, Need(4.0, 0.25))),
        (16, 8, None, Room(6, Need(2.0, 1.0))),
    ],
)
def test_the_cluster_is_divided_among_cells(cpus: float, gpus: float, parallel: int | None, expected: Room) -> None:
    assert share_out([cell()] * 6, Pretended(cpus, gpus), parallel) == expected


def test_the_configuration_has_the_last_word() -> None:
    greedy = [cell(training={"threads": 4})] * 6
    assert share_out(greedy, Pretended(8, 0), None) == Room(2, Need(4.0, 0.0))
    assert share_out([cell(cluster={"gpus_per_student": 0.5})] * 6, Pretended(8, 1), 2).need.gpus == 0.5
    assert with_threads(greedy[0], 2).run.config.training.threads == 4
    assert with_threads(cell(), 2).run.config.training.threads == 2


def test_one_process_runs_one_cell_at_a_time() -> None:
    assert share_out([cell()] * 6, InProcess(), 4).parallel == 1


def test_the_stores_of_a_run_are_its_own_unless_it_names_others() -> None:
    assert cell(run={"root": "here"}).run.stores == Path("here")
    assert cell(run={"root": "here", "stores": "there"}).run.stores == Path("there")
