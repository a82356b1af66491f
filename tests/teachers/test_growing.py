"""A run that asks for more of its teacher: what the plan says is to come is what is written, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import pipeline, planning
from orchestrator.config.loading import parse_config
from orchestrator.errors import StoreError
from orchestrator.run import Run, make_run
from orchestrator.signals.schema import rows_of
from orchestrator.signals.store import Store
from orchestrator.steps.signals import open_stores
from tests.teachers.conftest import LANGUAGES, TinyRun

SOFT = {"type": "soft-targets", "k": 8}
MORE = [
    SOFT | {"temperature": 2.0},
    {"type": "soft-targets", "signal": "sampled"},
    {"type": "soft-targets", "signal": "exact"},
    {"type": "relations"},
    {"type": "hidden-states", "embeddings": True},
]
NEW = {"partition", "partition_t2", "draws_050", "drawn_050", "head_states", "hidden_00", "hidden_03", "query_03"}


def _run(tiny: TinyRun, root: Path, *objectives: object) -> Run:
    tree: dict[str, object] = {
        "run": {"root": str(root)},
        "corpus": tiny.corpus_section.model_dump(mode="json"),
        "teachers": {"big": tiny.teacher.model_dump(mode="json")},
        "student": {"layers": 1, "hidden_size": 32, "heads": 4},
        "objectives": list(objectives),
        "cluster": {"address": "in-process"},
    }
    return make_run(parse_config(tree, where="this test"))


def _precompute(run: Run) -> None:
    with pipeline.lazy_cluster(run) as cluster:
        pipeline.compute_signals(run, cluster)


def _tables(store: Store) -> dict[str, int]:
    """Bytes of each file of a table."""
    return {str(path): path.stat().st_size for path in store.folder.rglob("*.arrow")}


def test_only_what_is_new_is_planned_and_computed(tiny_run: TinyRun, tmp_path: Path) -> None:
    run = _run(tiny_run, tmp_path, SOFT)
    _precompute(run)
    (store,) = open_stores(run).values()
    before = _tables(store)
    contents = {path: Path(path).read_bytes() for path in before}
    assert {Path(path).stem for path in before} == {"texts", "tokens", "masked", "topk_008"}

    wider = _run(tiny_run, tmp_path, *MORE)
    with pytest.raises(StoreError, match=r"shards are missing or lack tables \(shard 0: partition, .*key_03.*\); run"):
        open_stores(wider)
    (plan,) = planning.make_plan(wider).teachers
    assert plan.missing == plan.shards == len(store.units)
    there = sum(plan.bytes_per_token[table] for table in ("texts", "tokens", "masked", "topk_008"))
    assert plan.missing_bytes == pytest.approx(plan.num_bytes - plan.tokens * there)
    _precompute(wider)
    (grown,) = open_stores(wider).values()
    assert grown.folder == store.folder
    after = _tables(grown)
    assert {Path(path).stem for path in after.keys() - before.keys()} == NEW | {"key_03", "value_03"}
    assert all(Path(path).read_bytes() == data for path, data in contents.items())
    assert grown.verify() == []

    (plan,) = planning.make_plan(wider).teachers
    assert (plan.missing, plan.missing_bytes) == (0, 0.0)
    tokens = sum(counts.tokens for counts in grown.counts().values())
    for table, price in plan.bytes_per_token.items():
        if rows_of(table) == "token":
            values = sum(size for path, size in after.items() if Path(path).stem == table)
            assert values == pytest.approx(price * tokens, abs=2500 * len(grown.units))
    assert {unit.language for unit in grown.units} == set(LANGUAGES)
