"""A real SLURM cluster on this machine, for tests: see docs/slurm.md, "Test cluster"."""

from cluster.handle import Cluster, Execution

__all__ = ["Cluster", "Execution"]
