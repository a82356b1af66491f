"""Several workers train a group as one would: the same steps, logs and weights but for the order of a float's sum."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.config.models import ShareSection
from orchestrator.students import checkpoint as checkpoints
from orchestrator.students.job import GroupJob, Seat
from orchestrator.students.loop import train_group
from orchestrator.students.objective import StepSums
from orchestrator.students.parallel import Workers
from tests.students.test_resume import DROPOUT
from tests.students.tiny import ALL, MASKED_LM, SOFT, World, make_job, student


def group(world: World, root: Path) -> GroupJob:
    """Two students of unlike objectives that share parts, three micro-batches each, dropout; every step is saved."""
    students = (
        student("ann", "aa", "bb", template=DROPOUT, objectives=ALL),
        student("bob", "bb", template=DROPOUT, objectives=(MASKED_LM, SOFT)),
    )
    options = {"steps": 5, "accumulation": 3, "keep_checkpoints": 5, "checkpoint_seconds": 1e-9, "log_every": 1}
    share = ShareSection(parts=("embedding", "layer-2"))
    return make_job(world, root, *students, share=share, precision="fp32", **options)


def work(job: GroupJob) -> int:
    """One worker's part; runs in a process of its own."""
    torch.set_num_threads(1)
    return train_group(job)[1].steps


def together(job: GroupJob, size: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    jobs = [replace(job, seat=Seat(rank, size, address)) for rank in range(size)]
    with ProcessPoolExecutor(size, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(work, jobs)) == [job.training.steps] * size


def tensors(job: GroupJob, name: str, step: int) -> dict[str, Tensor]:
    folder = job.folder(name) / "checkpoints" / f"step-{step:08d}"
    return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


def logged(job: GroupJob, name: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (job.folder(name) / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in ("step", "loss", "terms", "tokens", "learning_rate")} for row in rows]


def assert_same(job: GroupJob, other: GroupJob) -> None:
    for name in ("ann", "bob"):
        for step in (1, 5):
            mine, theirs = tensors(job, name, step), tensors(other, name, step)
            assert mine.keys() == theirs.keys()
            for key, tensor in mine.items():
                torch.testing.assert_close(
                    theirs[key], tensor, rtol=2e-4, atol=2e-6, msg=lambda text, key=key: key + text
                )
        for row, twin in zip(logged(job, name), logged(other, name), strict=True):
            assert row["tokens"] == twin["tokens"]
            assert twin["loss"] == pytest.approx(row["loss"], rel=1e-4)
            assert twin["terms"] == pytest.approx(row["terms"], rel=1e-4)
        states = [
            json.loads((one.folder(name) / "checkpoints" / "step-00000005" / "state.json").read_text())
            for one in (job, other)
        ]
        assert states[0]["cursor"] == states[1]["cursor"]


def test_the_number_of_workers_changes_nothing_also_in_the_middle(world: World, tmp_path: Path) -> None:
    alone, several = group(world, tmp_path / "alone"), group(world, tmp_path / "several")
    train_group(alone)
    together(several, 3)
    assert_same(alone, several)
    for name in ("ann", "bob"):
        for step in (4, 5):
            checkpoints.remove(several.folder(name) / "checkpoints", step)
    train_group(several)
    assert_same(alone, several)


def test_a_worker_by_itself_exchanges_nothing() -> None:
    workers = Workers(Seat(), "cpu")
    parameter = torch.nn.Parameter(torch.ones(2))
    workers.add_gradients([parameter])
    workers.agree(7)
    assert parameter.grad is None
    assert workers.add_counts({"ann": {"mlm": 3}}) == {"ann": {"mlm": 3}}
    assert workers.is_first


def test_sums_of_a_step_start_at_nothing_and_keep_terms_apart() -> None:
    sums = StepSums(["a", "b"], device=torch.device("cpu"))
    for value, raw in ((1.0, {"a": 2.0}), (0.5, {"b": 4.0, "a": 1.0})):
        sums.add(torch.tensor(value), {name: torch.tensor(total) for name, total in raw.items()})
    found: Sequence[float] = [float(sums.loss), float(sums.raw("a")), float(sums.raw("b"))]
    assert found == [1.5, 3.0, 4.0]
