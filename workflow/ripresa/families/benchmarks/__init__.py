"""Benchmarks of a host: workloads, their repetition, and what the numbers say.

A workload is one YAML file in `workloads` (see `registry`); a unit is one repetition of one workload on one
host (see `repetition`), described by `plan` and summed up by `summary` and `plot`. What measures on a host is
`repetition` and what it imports, and `programs`: Python 3.9 and the standard library, unless the workload
says that it needs more.
"""
