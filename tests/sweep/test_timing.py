"""How long the baseline of equal time is trained: decided once from the logs of others, and then it stays."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.loading import parse_config
from orchestrator.config.setups import expand
from orchestrator.errors import ConfigError, OrchError, StoreError
from orchestrator.run import Run
from orchestrator.sweep.timing import decide_steps, decided_steps, training_seconds
from tests.e2e.command import orch
from tests.e2e.project import make_project, write_config
from tests.sweep.test_sweep import BASE, lines

TREE: dict[str, object] = {
    "corpus": {"languages": {"en": "en.txt", "de": "de.txt"}},
    "teachers": {"t": {"model": "somewhere", "languages": ["en", "de"]}},
    "student": {"layers": 1, "hidden_size": 8, "heads": 2},
    "objectives": [{"type": "masked-lm"}],
    "training": {"steps": 20, "baseline": False},
}


def run_of(root: Path, *, speed: float, share: bool = False, is_done: bool = True, steps: int = 20) -> Run:
    """A run of two students that each read 100 tokens a step at `speed` tokens a second."""
    tree = TREE | {
        "run": {"root": str(root), "setup": "one-to-many"},
        "training": {"steps": steps, "baseline": False},
        "share": {"projections": share},
    }
    run = Run(expand(parse_config(tree, where="test")), "in-process")
    for name in ("en", "de"):
        folder = run.students_folder / name
        (folder / "final").mkdir(parents=True)
        rows = [
            {
                "step": step,
                "loss": 1.0,
                "terms": {},
                "tokens": 100 * step,
                "tokens_per_second": speed,
                "data_wait_share": 0.0,
            }
            for step in (steps // 2, steps)
        ]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        if is_done:
            (folder / "final" / "training.json").write_text('{"fingerprint": "x"}')
    return run


def test_students_of_one_group_take_their_time_together(tmp_path: Path) -> None:
    apart, together = run_of(tmp_path / "a", speed=50.0), run_of(tmp_path / "b", speed=50.0, share=True)
    assert training_seconds(apart) == pytest.approx(80.0)
    assert training_seconds(together) == pytest.approx(40.0)


def test_nobody_began(tmp_path: Path) -> None:
    run = run_of(tmp_path, speed=50.0)
    shutil.rmtree(tmp_path)
    assert training_seconds(run) is None


def test_steps_are_the_time_of_the_reference_at_the_speed_of_the_other(tmp_path: Path) -> None:
    reference = run_of(tmp_path / "reference", speed=50.0, share=True, steps=30)  # 60 s
    other = run_of(tmp_path / "other", speed=140.0, share=True)  # 14.3 s for 20 steps
    assert decided_steps(tmp_path, 1, reference="soft") is None
    decide_steps(tmp_path, 1, reference=("soft", reference), other=other)
    assert decided_steps(tmp_path, 1, reference="soft") == round(30 * (100 / 50) / (100 / 140)) == 84
    assert decided_steps(tmp_path, 2, reference="soft") is None
    found = json.loads((tmp_path / "timed" / "seed-1.json").read_text())
    assert found["reference"] == {"cell": "soft", "steps": 30, "seconds": pytest.approx(60.0)}
    assert found["no_teacher"] == {"cell": "no-teacher", "steps": 20, "seconds": pytest.approx(2000 / 140)}
    faster = run_of(tmp_path / "faster", speed=1000.0, share=True)
    decide_steps(tmp_path, 1, reference=("soft", reference), other=faster)
    assert decided_steps(tmp_path, 1, reference="soft") == 84


def test_what_is_not_trained_to_its_end_has_no_time(tmp_path: Path) -> None:
    done, begun = run_of(tmp_path / "done", speed=50.0), run_of(tmp_path / "begun", speed=50.0, is_done=False)
    with pytest.raises(OrchError, match="it waits for no-teacher, seed 1, which is not trained to its end"):
        decide_steps(tmp_path, 1, reference=("soft", done), other=begun)
    with pytest.raises(OrchError, match="it waits for soft, seed 1"):
        decide_steps(tmp_path, 1, reference=("soft", begun), other=done)
    assert not (tmp_path / "timed").exists()


def test_a_decision_that_is_damaged_or_of_another_reference_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", speed=50.0)
    decide_steps(tmp_path, 1, reference=("soft", run), other=run)
    with pytest.raises(ConfigError, match="by the time of 'soft', and the reference is 'hard' now"):
        decided_steps(tmp_path, 1, reference="hard")
    path = tmp_path / "timed" / "seed-1.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(StoreError, match=r"seed-1\.json is damaged; remove it and the cell no-teacher-time"):
        decided_steps(tmp_path, 1, reference="soft")


SWEEP = """
base: orch.yaml
root: sweep
seeds: [1, 2]
cells: {soft: {}}
baselines: [no-teacher-time, no-teacher]
"""


@pytest.fixture
def project() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="orch-test-"))
    make_project(folder)
    write_config(folder, BASE)
    (folder / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(900)  # seconds when nobody else computes
def test_a_sweep_trains_it_last_and_as_long_as_was_decided(project: Path) -> None:
    plan = orch("sweep", "--plan", folder=project)
    assert plan.status == 0, plan.err
    assert "as timed" in plan.out
    assert "soft-targets" not in plan.out
    result = orch("sweep", "--address", "in-process", folder=project)
    assert result.status == 0, result.out + result.err
    steps = {}
    for seed in (1, 2):
        steps[seed] = json.loads((project / "sweep" / "timed" / f"seed-{seed}.json").read_text())["steps"]
        cell = project / "sweep" / "cells" / "no-teacher-time" / f"seed-{seed}"
        (log,) = cell.glob("students/*/*/metrics.jsonl")
        assert lines(log)[-1]["step"] == steps[seed]
        assert f"steps: {steps[seed]}\n" in (cell / "config.yaml").read_text()
    rows = lines(project / "sweep" / "report" / "table.jsonl")
    assert {row["cell"]: row["seeds"] for row in rows if row["measure"] == "kl" and row["cell"] != "teacher"} == {
        "soft": 2,
        "no-teacher-time": 2,
        "no-teacher": 2,
    }
    # other times, and a cell that is gone: what was decided stays
    for log in (project / "sweep" / "cells").glob("*/*/students/*/*/metrics.jsonl"):
        slow = [row | {"tokens_per_second": 1.0} for row in lines(log)]
        log.write_text("".join(f"{json.dumps(row)}\n" for row in slow))
    weights = project / "sweep/cells/no-teacher-time/seed-1/students/one-to-one/student/final/model.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(project / "sweep" / "cells" / "no-teacher-time" / "seed-1")
    assert orch("sweep", "--address", "in-process", folder=project).status == 0
    assert weights.read_bytes() == before
    assert json.loads((project / "sweep" / "timed" / "seed-1.json").read_text())["steps"] == steps[1]
    plan = orch("sweep", "--plan", folder=project)
    assert "as timed" not in plan.out
