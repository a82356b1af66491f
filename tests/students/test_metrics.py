"""What is logged: means over valid elements since the last row, no row twice, nothing that is not finite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from orchestrator.errors import UnitError
from orchestrator.students.metrics import StudentMetrics

ONE = torch.tensor(1.0)


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def add_step(metrics: StudentMetrics, *losses: float, count: int = 4, norm: float = 1.0, waited: float = 0.0) -> None:
    for loss in losses:
        metrics.add(torch.tensor(loss), {"masked-lm": torch.tensor(loss * count)}, num_tokens=50)
    metrics.end_step({"masked-lm": count}, gradient_norm=torch.tensor(norm), waited=waited)


def test_a_row_holds_the_means_since_the_last_one(tmp_path: Path) -> None:
    metrics = StudentMetrics(tmp_path, student="ann", step=0, tokens=1000)
    add_step(metrics, 1.0, 2.0, count=4)
    add_step(metrics, 5.0, 4.0, count=12)
    metrics.log(2, phase="all", rate=0.5)
    add_step(metrics, 7.0, count=1)
    metrics.log(3, phase="all", rate=0.25)
    metrics.close()
    first, second = rows_of(tmp_path)
    assert {key: first[key] for key in ("step", "student", "phase", "loss", "tokens", "learning_rate")} == {
        "step": 2,
        "student": "ann",
        "phase": "all",
        "loss": 6.0,  # the steps' losses are 3 and 9
        "tokens": 1200,
        "learning_rate": 0.5,
    }
    assert first["terms"] == {"masked-lm": (4 + 8 + 60 + 48) / 16}
    assert (second["step"], second["loss"], second["tokens"], second["terms"]) == (3, 7.0, 1250, {"masked-lm": 7.0})


def test_speed_is_of_the_tokens_since_the_last_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 102.0, 106.0, 106.0])
    metrics = StudentMetrics.__new__(StudentMetrics)
    monkeypatch.setattr("orchestrator.students.metrics.time.monotonic", lambda: next(clock))
    metrics.__init__(tmp_path, student="ann", step=5, tokens=10**9)  # type: ignore[misc]
    add_step(metrics, 1.0, 1.0, waited=0.5)
    metrics.log(6, phase="all", rate=0.1)
    add_step(metrics, 1.0)
    metrics.log(7, phase="all", rate=0.1)
    monkeypatch.undo()
    metrics.close()
    assert [row["tokens_per_second"] for row in rows_of(tmp_path)] == [50.0, 12.5]
    assert [row["data_wait_share"] for row in rows_of(tmp_path)] == [0.25, 0.0]


def test_rows_after_the_step_where_training_goes_on_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "loss": 1.0}) for step in (2, 4, 6, 8)]
    path.write_bytes("\n".join(rows).encode()[:-3] + b"\xff")  # the last row was torn
    StudentMetrics(tmp_path, student="ann", step=5, tokens=0).close()
    assert [row["step"] for row in rows_of(tmp_path)] == [2, 4]
    before = path.stat().st_mtime_ns
    StudentMetrics(tmp_path, student="ann", step=4, tokens=0).close()
    assert path.stat().st_mtime_ns == before
    StudentMetrics(tmp_path, student="ann", step=0, tokens=0).close()
    assert rows_of(tmp_path) == []


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_not_finite_ends_training_in_one_sentence(tmp_path: Path, loss: float, norm: float) -> None:
    metrics = StudentMetrics(tmp_path, student="ann", step=0, tokens=0)
    add_step(metrics, 1.0)
    metrics.check(1)
    add_step(metrics, loss, norm=norm)
    for call in (lambda: metrics.check(2), lambda: metrics.log(2, phase="all", rate=0.1)):
        with pytest.raises(UnitError, match=r"of student 'ann' became (nan|inf) by step 2; lower training") as caught:
            call()
        assert str(caught.value).count(". ") == 0
    metrics.close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_tensorboard_has_the_same_points(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first in (0, 3):  # the second goes on after step 3, and what came later is gone
        metrics = StudentMetrics(tmp_path, student="ann", step=first, tokens=0)
        for step in range(first + 1, first + 6):
            add_step(metrics, float(step + 100 * first))
            metrics.log(step, phase="all", rate=0.1)
        metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = {event.step: event.value for event in events.Scalars("loss")}
    assert points == {1: 1.0, 2: 2.0, 3: 3.0} | {step: step + 300.0 for step in range(4, 9)}
    assert len(events.Scalars("loss")) == len(points)
    assert {"terms/masked-lm", "learning_rate", "tokens_per_second"} <= set(events.Tags()["scalars"])
