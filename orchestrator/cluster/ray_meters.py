"""How the processes of a Ray cluster are seen: their counts by Ray's metrics, their logs in files, and where to look.

Ray's agent on each machine fetches the counts of its processes and offers them to Prometheus, dashboard or not.
"""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import meters
from orchestrator.logs import log_worker

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

_log = logging.getLogger(__name__)

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0]
_ANSWER_SECONDS = 2.0


class RayMeters:
    """Makes each of Ray's metrics when it is first counted."""

    def __init__(self) -> None:
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def add(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Count in this process; Ray fetches it every ten seconds."""
        if name not in self._made:
            self._made[name] = _make(name)
        made, own = self._made[name], dict(tags)
        match meters.METERS[name].kind:
            case "counter":
                if value > 0:  # Ray refuses to add nothing
                    made.inc(value, own)
            case "gauge":
                made.set(value, own)
            case "histogram":
                made.observe(value, own)


def _make(name: str) -> Counter | Gauge | Histogram:
    from ray.util import metrics

    meter = meters.METERS[name]
    match meter.kind:
        case "counter":
            return metrics.Counter(f"orch_{name}", meter.description, tag_keys=meter.tags)
        case "gauge":
            return metrics.Gauge(f"orch_{name}", meter.description, tag_keys=meter.tags)
        case "histogram":
            return metrics.Histogram(f"orch_{name}", meter.description, boundaries=_SECONDS, tag_keys=meter.tags)


def prepare_actor(logs: Path, *, on_restart: Callable[[], None] | None = None) -> None:
    """In an actor, before it makes its worker: log to a file of its own, and count for Ray."""
    import ray

    context = ray.get_runtime_context()
    log_worker(logs, worker=context.get_actor_id() or "")
    meters.collect_with(RayMeters())
    if context.was_current_actor_reconstructed:
        _log.warning("takes the place of a worker that was lost")
        meters.add("retries", 1)
        if on_restart is not None:
            on_restart()


def links(dashboard: str | None) -> dict[str, tuple[str, ...]]:
    """The dashboard at HOST:PORT, if it answers, and where each machine offers its metrics to Prometheus."""
    import ray

    ports = [(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes() if node["Alive"]]
    found = {"metrics": tuple(f"http://{host}:{port}/metrics" for host, port in ports if port)}
    if dashboard and _answers(f"http://{dashboard}"):
        found["dashboard"] = (f"http://{dashboard}",)
    return found


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS):
            return True
    except urllib.error.HTTPError:  # it wants a token, and it is there
        return True
    except OSError:
        return False
