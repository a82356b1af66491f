"""Where units of work run: on a Ray that is started here or joined, or in this process."""

from orchestrator.cluster.on_ray import open_cluster
from orchestrator.cluster.units import Cluster, InProcess, Outcome, Worker

__all__ = ["Cluster", "InProcess", "Outcome", "Worker", "open_cluster"]
