"""Benchmarks of a host: workloads, their repetition, and what the numbers say.

A workload is one small module with `PRESETS` and `run` (see `registry`); a unit is one repetition of one
workload on one host (see `repetition`), described by `plan` and summed up by `summary` and `plot`.
"""
