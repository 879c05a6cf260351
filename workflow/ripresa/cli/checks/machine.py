"""The machine and what is installed on it."""

import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata, util

from ripresa.cli.checks import FAIL, OK, WARN, Check

PLUGINS = ("snakemake_scheduler_plugin_recovery", "snakemake_logger_plugin_journal")
ADAPTERS = ("fio", "stress-ng", "sysbench")
_SETUP = "run `make setup`"


def checks() -> Iterator[Check]:
    """Look at Python, Snakemake and its plugins, cores, memory, limits and benchmark programs."""
    yield Check("python", OK, f"{sys.version.split()[0]} at {sys.executable}")
    yield _snakemake()
    yield _command()
    yield from map(_plugin, PLUGINS)
    yield _cores()
    yield _memory()
    yield _open_files()
    yield from map(_adapter, ADAPTERS)


def _snakemake() -> Check:
    try:
        version = metadata.version("snakemake")
        wanted = next(r for r in metadata.requires("ripresa") or [] if re.match(r"snakemake\b(?!-)", r))
    except (metadata.PackageNotFoundError, StopIteration):
        return Check("snakemake", FAIL, "Snakemake and Ripresa are not installed together", _SETUP)
    limits = re.findall(r"(>=|<)([\d.]+)", wanted)
    fits = all(
        _numbers(version) < _numbers(n) if sign == "<" else _numbers(version) >= _numbers(n)
        for sign, n in limits
    )
    if fits:
        return Check("snakemake", OK, version)
    needed = " and ".join(f"{sign} {number}" for sign, number in limits)
    return Check("snakemake", FAIL, f"{version}, but Ripresa needs {needed}", _SETUP)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _command() -> Check:
    """Whether `snakemake` on the command line is the one that has the plugins."""
    found, own = shutil.which("snakemake"), os.path.dirname(sys.executable)
    if found and os.path.realpath(os.path.dirname(found)) == os.path.realpath(own):
        return Check("snakemake command", OK, found)
    fix = f'put this environment first: export PATH="{own}:$PATH"'
    return Check(
        "snakemake command", WARN, f"{found}, of another environment" if found else "not on the PATH", fix
    )


def _plugin(module: str) -> Check:
    _, kind, _, name = module.split("_")
    if util.find_spec(module) is not None:
        return Check(f"{kind} plugin {name}", OK, "found")
    return Check(f"{kind} plugin {name}", FAIL, f"module {module} is not on Python's path", _SETUP)


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    busy = os.getloadavg()[0]
    found = f"{cores} usable, load {busy:.1f}"
    if busy <= cores + 0.5:
        return Check("cores", OK, found)
    return Check(
        "cores", WARN, found, "wait until the machine is idle, or benchmarks measure its other work too"
    )


def _memory() -> Check:
    with open("/proc/meminfo") as file:
        kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in file)}
    available = kib.get("MemAvailable", kib["MemFree"]) / 2**20
    found = f"{available:.1f} of {kib['MemTotal'] / 2**20:.1f} GiB available"
    if available >= 1:
        return Check("memory", OK, found)
    return Check("memory", WARN, found, "end what uses it; units may be killed for want of memory")


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= 1024:
        return Check("open files", OK, f"limit {soft}")
    return Check("open files", WARN, f"limit {soft}", "raise it: ulimit -n 4096")


def _adapter(program: str) -> Check:
    path = shutil.which(program)
    if path:
        return Check(program, OK, path)
    fix = f"apt-get install {program} (or the like), if its benchmarks are wanted"
    return Check(program, WARN, "not installed: its benchmarks are skipped", fix)
