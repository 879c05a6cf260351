"""Experiments of a sweep on GPUs and CPUs. Room only, so far."""
