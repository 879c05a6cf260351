"""What the guard costs: trivial units guarded by Ripresa against plain `shell:` rules under plain Snakemake.

Both run the same number of units in turn, several times; printed is the ratio of units per second.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAIN = """
rule all:
    input: [f"out/{{n}}.txt" for n in range({units})]

rule trivial:
    output: "out/{{n}}.txt"
    shell: "echo {{wildcards.n}} > {{output}}"
"""

GUARDED = """
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("cost", main=workflow.is_main_process)
trivial = Units("out/{{n}}.txt", sweep={{"product": {{"n": list(range({units}))}}}})

rule all:
    input: trivial.targets()

rule trivial:
    output: trivial.target
    shell: guard("echo {{wildcards.n}} > {{output}}")

onstart:
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    campaign.start(jobs, config_sha256="", policy=policy.default())

onsuccess:
    campaign.end()
"""

# As in profiles/default.
RIPRESA = [
    "--scheduler", "recovery", "--logger", "journal", "--nolock", "--rerun-incomplete", "--keep-going",
    "--retries", "100", "--show-failed-logs",
]  # fmt: skip


def run(snakefile: str, units: int, options: list[str]) -> float:
    """Seconds of one whole `snakemake` call over all units in an empty directory."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "Snakefile").write_text(snakefile.format(units=units))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--workflow-profile", "none", *options]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        found = len(list(Path(directory).rglob("out/*.txt")))
        if done.returncode or found < units:
            raise SystemExit(f"{found} of {units} units made:\n{done.stderr[-3000:]}")
        return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--goal", type=float, default=0.7)
    arguments = parser.parse_args()
    ratios = []
    for number in range(arguments.rounds):
        plain = run(PLAIN, arguments.units, [])
        guarded = run(GUARDED, arguments.units, RIPRESA)
        ratios.append(plain / guarded)
        print(
            f"round {number + 1}: plain {arguments.units / plain:.1f} units/s, "
            f"guarded {arguments.units / guarded:.1f} units/s, ratio {ratios[-1]:.2f}",
            flush=True,
        )
    ratio = statistics.median(ratios)
    print(f"guarded / plain units per second: {ratio:.2f} (goal: at least {arguments.goal})")
    return 0 if ratio >= arguments.goal else 1


if __name__ == "__main__":
    sys.exit(main())
