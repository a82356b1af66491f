"""Where units of work run: on a Ray that is started here or joined, or in this process."""

from orchestrator.cluster.base import Cluster, InProcess
from orchestrator.cluster.on_ray import open_cluster
from orchestrator.cluster.pools import Pending, Pool, PoolPlan
from orchestrator.cluster.units import Gang, Incident, Outcome, Worker

__all__ = [
    "Cluster",
    "Gang",
    "InProcess",
    "Incident",
    "Outcome",
    "Pending",
    "Pool",
    "PoolPlan",
    "Worker",
    "open_cluster",
]
