"""A Ray of several machines that are all here, in a process of its own: a process has but one Ray and one token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 80 << 20


class Machines:
    """The handle of such a Ray: machines join and are lost while others use it at `address`."""

    def __init__(self, process: subprocess.Popen[str], complaints: IO[bytes]) -> None:
        self._process, self._complaints = process, complaints
        self.address = self._answer()

    def add(self, **what: object) -> str:
        """Let a machine join; returns its name."""
        return self._ask({"add": what})

    def lose(self, name: str) -> None:
        """Kill a machine."""
        self._ask({"lose": name})

    def _ask(self, question: dict[str, object]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line.removeprefix("> ").strip()
        self._complaints.seek(0)
        raise AssertionError(f"the cluster did not start or is gone: {self._complaints.read()[-2000:].decode()}")


@contextmanager
def machines(*each: dict[str, object]) -> Iterator[Machines]:
    """A head that does no work, and a machine for `each`, until the block ends."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.machines"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        try:
            found = Machines(process, complaints)
            for what in each:
                found.add(**what)
            yield found
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(60)
            finally:
                process.kill()


def environment(**more: str) -> dict[str, str]:
    """For processes of such a cluster and its drivers: no variable of Ray or orch, one thread, this code."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "ORCH_"))}
    return {**own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def _host() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY}
    )
    print(">", cluster.address, flush=True)
    nodes = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "add" in question:
            node = cluster.add_node(object_store_memory=MEMORY, **question["add"])
            nodes[node.node_id] = node
            print(">", node.node_id, flush=True)
        else:
            cluster.remove_node(nodes[question["lose"]], allow_graceful=False)
            print("> lost", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _host()
