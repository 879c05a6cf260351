"""Configuration: YAML files, validated by JSON Schema before anything runs, and kept with every run."""

from ripresa.configuration.problems import ConfigurationError, Problem
from ripresa.configuration.recovery import load_policy
from ripresa.configuration.settings import load, resolve
from ripresa.configuration.snapshot import check_resume, difference, load_snapshot, sha256, snapshot

__all__ = [
    "ConfigurationError",
    "Problem",
    "check_resume",
    "difference",
    "load",
    "load_policy",
    "load_snapshot",
    "resolve",
    "sha256",
    "snapshot",
]
