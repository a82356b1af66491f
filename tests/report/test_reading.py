"""What a run left behind, read back: later rows win, torn lines are forgiven, damage is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import StoreError
from orchestrator.report.reading import read_metrics, read_training

from .samples import full_run, write_log, write_metrics


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_metrics(tmp_path, full_run())
    assert read_metrics(tmp_path / "evaluation" / "metrics.jsonl") == full_run()


def test_the_later_of_two_of_the_same_figure_counts(tmp_path: Path) -> None:
    first = full_run()[0]
    write_metrics(tmp_path, [first, replace(first, value=0.99)])
    assert [row.value for row in read_metrics(tmp_path / "evaluation" / "metrics.jsonl")] == [0.99]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = json.dumps(asdict(full_run()[0]))
    path.write_text(f"{line}\n{line[:40]}", encoding="utf-8")
    assert len(read_metrics(path)) == 1


@pytest.mark.parametrize("line", ["{}", "not json", '{"model": "a", "role": "nobody"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(asdict(full_run()[0]))}\n{line}\n", encoding="utf-8")
    with pytest.raises(StoreError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)


def test_nothing_there_is_nothing_read(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.jsonl") == []
    assert read_training(tmp_path) == []


def test_training_logs(tmp_path: Path) -> None:
    write_log(tmp_path, "one-to-many", "de", steps=100)
    write_log(tmp_path, "one-to-many", "de-no-teacher", steps=50)
    (tmp_path / "students" / "one-to-many" / "empty").mkdir()
    (tmp_path / "students" / "one-to-many" / "empty" / "metrics.jsonl").write_bytes(b"")
    taught, alone = read_training(tmp_path)
    assert (taught.setup, taught.student, alone.student) == ("one-to-many", "de", "de-no-teacher")
    np.testing.assert_array_equal(alone.steps, [10, 20, 30, 40, 50])
    assert list(taught.terms) == ["masked-lm", "soft-targets", "hidden-states"]
    assert taught.seconds == pytest.approx((40_000 / taught.tokens_per_second).sum())


def test_a_term_that_comes_later_is_unknown_before(tmp_path: Path) -> None:
    folder = tmp_path / "students" / "one-to-one" / "student"
    folder.mkdir(parents=True)
    row = {"student": "student", "loss": 1.0, "tokens": 10, "tokens_per_second": 1.0, "data_wait_share": 0.0}
    lines = [{**row, "step": 2, "terms": {"a": 1.0, "b": 2.0}}, {**row, "step": 1, "terms": {"a": 3.0}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (log,) = read_training(tmp_path)
    np.testing.assert_array_equal(log.terms["a"], [3.0, 1.0])
    np.testing.assert_array_equal(log.terms["b"], [np.nan, 2.0])
