"""Where units of work run: on a Ray that is started here or joined, or in this process."""

from orchestrator.cluster.base import Cluster, InProcess
from orchestrator.cluster.jobs import check_lasting
from orchestrator.cluster.machines import Machine, Need, even_cpus, even_gpus, room, without
from orchestrator.cluster.on_ray import open_cluster
from orchestrator.cluster.pools import Pending, Pool, PoolPlan
from orchestrator.cluster.units import Gang, Incident, Outcome, Worker

__all__ = [
    "Cluster",
    "Gang",
    "InProcess",
    "Incident",
    "Machine",
    "Need",
    "Outcome",
    "Pending",
    "Pool",
    "PoolPlan",
    "Worker",
    "check_lasting",
    "even_cpus",
    "even_gpus",
    "open_cluster",
    "room",
    "without",
]
