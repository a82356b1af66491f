"""A machine of the cluster is lost with work queued on it: the others do it, soon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.signals import Store
from tests.faults.conftest import Note
from tests.faults.figures import IS_LONG
from tests.faults.work import REQUEST
from tests.signals.samples import contents, make_store, make_tables, units

ROOT = Path(__file__).resolve().parents[2]

#: A Ray of three machines, all of them here, of which one dies; in a process of its own, since a process has one Ray.
SCRIPT = """
import json, sys, time
from pathlib import Path

from ray.cluster_utils import Cluster

from orchestrator.cluster import Need, open_cluster
from orchestrator.signals import Store
from tests.faults.work import ShardWriter

folder = Path(sys.argv[1])
quick = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,  # a busy machine is slow to answer
    "health_check_failure_threshold": 3,
}
memory = {"object_store_memory": 80 << 20}
machines = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": quick, **memory}
)
nodes = [machines.add_node(num_cpus=2, **memory) for _ in range(2)]
(store,) = (folder / "store").iterdir()
notes = folder / "notes"
notes.mkdir()
lost, after, again = 0.0, [], []
with open_cluster(machines.address, object_store_bytes=0, log_folder=folder / "logs", join_seconds=120.0) as cluster:
    outcomes = cluster.run_units(
        ShardWriter(store, notes, seconds=0.5),
        Store.open(store).missing(),
        need=Need(1.0),
        workers=4,
        deadline_seconds=120.0,
        max_attempts=3,
        label=lambda unit: f"shard {unit.index}",
    )
    for number, outcome in enumerate(outcomes):
        assert outcome.error is None, outcome.error
        if lost:
            after.append(time.monotonic() - lost)
            if outcome.attempts > 1:
                again.append(after[-1])
        if number == 7:
            machines.remove_node(nodes[1], allow_graceful=False)
            lost = time.monotonic()
machines.shutdown()
print(json.dumps({"next": after[0], "again": max(again, default=0.0), "num_again": len(again), "last": after[-1]}))
"""


@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not IS_LONG, reason="31 processes and 3 GB: in the long form; the rules without Ray are in tests/test_cluster.py"
)
def test_a_node_is_lost(tmp_path: Path, note: Note) -> None:
    plan = units(texts=20, per_shard=1)
    whole = make_store(tmp_path / "expected", REQUEST, plan=plan)
    for unit in plan:
        whole.write(unit, make_tables(unit, REQUEST))
    whole.finish()
    store = make_store(tmp_path / "store", REQUEST, plan=plan)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    Store.open(store.folder).finish()
    make_store(tmp_path / "store", REQUEST, plan=plan)  # the next start, which clears away
    assert contents(tmp_path / "store") == contents(tmp_path / "expected")
    assert figures["next"] <= 10.0
    note(
        "a node is lost",
        f"next commit after {figures['next']:.1f} s, the {figures['num_again']} units that were on it after at most "
        f"{figures['again']:.1f} s, all {len(plan)} done",
    )
