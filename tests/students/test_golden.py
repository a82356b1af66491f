"""A loss curve that stays as it is, whatever is made faster: text, masks, signals, order, losses, gradients, AdamW.

Where a change is meant to change it, `ORCH_GOLDEN=write python -m pytest tests/students/test_golden.py` writes it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.config.models import ShareSection
from orchestrator.students.loop import train_group
from tests.students.tiny import World, make_job, student

CURVE = Path(__file__).with_name("golden.json")
TOLERANCE = 5e-3  # other processors round otherwise, and a stored value may then fall on the next step of its 8 bits


def test_the_loss_curve_is_what_it_was(world: World, tmp_path: Path) -> None:
    """Two students with one embedding matrix, one of them of two teachers; soft targets, masked LM, hidden states."""
    job = make_job(
        world,
        tmp_path,
        student("ann", "aa", "bb", teachers={"aa": "mixed", "bb": "other"}),
        student("bob", "aa", "bb", teachers={"aa": "mixed", "bb": "other"}),
        share=ShareSection(parts=("embedding",)),
        steps=12,
        log_every=1,
        accumulation=2,
        checkpoint_seconds=1000.0,
    )
    train_group(job)
    found = {}
    for name in ("ann", "bob"):
        rows = [json.loads(line) for line in (job.folder(name) / "metrics.jsonl").read_text().splitlines()]
        found[name] = [{"loss": row["loss"]} | row["terms"] for row in rows]
    if os.environ.get("ORCH_GOLDEN") == "write":
        CURVE.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(CURVE.read_text())
    assert len(expected["ann"]) == 12
    for name, curve in expected.items():
        assert expected[name][-1]["loss"] < 0.98 * expected[name][0]["loss"]
        for step, (row, wanted) in enumerate(zip(found[name], curve, strict=True), start=1):
            assert row == pytest.approx(wanted, rel=TOLERANCE), f"{name}, step {step}"
