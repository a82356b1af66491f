"""The whole job on several machines: the signals of one process, bit for bit, and its students."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import orch, start
from tests.e2e.conftest import copy_of
from tests.e2e.project import assert_same_students, write_config
from tests.machines import machines

pytestmark = [pytest.mark.timeout(900), pytest.mark.ray, pytest.mark.slow]

SETUP = ("--setup", "one-to-many")
TRAINING: dict[str, object] = {
    "steps": 8,
    "tokens_per_batch": 512,
    "accumulation": 2,
    "log_every": 2,
    "precision": "fp32",
    "baseline": False,
    "threads": 1,
}
CHANGES: dict[str, object] = {"training": TRAINING, "evaluation": {"max_texts": 4}}


def written(project: Path, pattern: str) -> dict[str, bytes]:
    """Files of the run by their paths."""
    root = project / "run"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob(pattern)) if path.is_file()}


def test_a_job_on_two_machines_makes_what_one_process_makes(made_project: Path, shelf: Path) -> None:
    """Both machines are needed: a group's two workers have two CPUs each, and a machine has three."""
    alone, together = (copy_of(made_project, shelf) for _ in range(2))
    for project in (alone, together):
        write_config(project, CHANGES)
    result = orch("run", *SETUP, folder=alone)
    assert (result.status, result.err) == (0, "")

    several = [
        *("--set", "cluster.teacher_actors=2", "--set", "cluster.teacher_placement=spread"),
        *("--set", "cluster.student_workers=2", "--set", "cluster.cpus_per_student=2"),
    ]
    with machines({"num_cpus": 3}, {"num_cpus": 3}) as two:
        process = start("run", *SETUP, *several, "--address", two.address, folder=together)
        try:
            _, err = process.communicate(timeout=700)
        finally:
            process.kill()
    assert process.returncode == 0, err
    for pattern in ("signals/*/manifest.json", "signals/*/shards/**/*", "vocab/*/vocab.json"):
        expected = written(alone, pattern)
        assert expected
        assert written(together, pattern) == expected
    assert_same_students(alone, together, count=3)
