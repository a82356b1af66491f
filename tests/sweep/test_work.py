"""How many cells run at once, and what each of them has."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster import InProcess, Machine, Need
from orchestrator.config.loading import parse_config
from orchestrator.config.setups import expand
from orchestrator.run import Run
from orchestrator.sweep.opening import CellRun
from orchestrator.sweep.work import Room, share_out, with_threads
from tests.pretended import Pretended


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
    assert share_out([cell()] * 6, Pretended(Machine(cpus, gpus)), parallel) == expected


def test_the_configuration_has_the_last_word() -> None:
    greedy = [cell(training={"threads": 4})] * 6
    assert share_out(greedy, Pretended(Machine(8, 0)), None) == Room(2, Need(4.0, 0.0))
    assert share_out([cell(cluster={"gpus_per_student": 0.5})] * 6, Pretended(Machine(8, 1)), 2).need.gpus == 0.5
    assert with_threads(greedy[0], 2).run.config.training.threads == 4
    assert with_threads(cell(), 2).run.config.training.threads == 2


def test_one_process_runs_one_cell_at_a_time() -> None:
    assert share_out([cell()] * 6, InProcess(), 4).parallel == 1


def test_the_stores_of_a_run_are_its_own_unless_it_names_others() -> None:
    assert cell(run={"root": "here"}).run.stores == Path("here")
    assert cell(run={"root": "here", "stores": "there"}).run.stores == Path("there")
