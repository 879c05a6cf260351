"""Resources that grow with the failures that call for them, through the real snakemake."""

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ripresa.journal import records
from ripresa.journal.paths import Run
from ripresa.recovery import policy

SNAKEFILE = """
from ripresa.dsl import Units, escalated, guard, open_run
from ripresa.recovery import policy

campaign = open_run("grow", main=workflow.is_main_process)
units = Units("work/{n}.txt", parameters=[{"n": 1}])

rule all:
    input: units.targets()

rule work:
    output: units.target
    params: p=units.params
    resources: mem_mb=escalated(units, "mem_mb", 100, limit=350)
    shell:
        guard(
            "if [ {resources.mem_mb} -lt 350 ]; then echo 'MemoryError: not enough'; exit 1; fi; "
            "echo {resources.mem_mb} > {output}",
            resources=("mem_mb",),
        )

onstart:
    campaign.start((), config_sha256="", policy=policy.default())

onsuccess:
    campaign.end()
"""
CALL = [
    sys.executable, "-m", "snakemake", "--cores", "1", "--retries", "10", "--scheduler", "recovery",
    "--nolock", "--rerun-incomplete", "--workflow-profile", "none",
]  # fmt: skip


def test_memory_doubles_up_to_its_limit_and_stays(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    done = subprocess.run(CALL, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/grow/work/1.txt").read_text() == "350\n"
    history = records.read(Run(tmp_path / "runs/grow").attempts("work/1.txt"))
    assert [record["resources"]["mem_mb"] for record in history] == ["100", "200", "350"]
    assert [record["failure_class"] for record in history] == ["memory", "memory", None]
    again = subprocess.run([*CALL, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Nothing to be done" in again.stderr + again.stdout


@given(st.lists(st.sampled_from(["failed", "other", "published", "released"]), max_size=12))
def test_the_factor_outlives_success_and_ends_with_a_release(outcomes: list[str]) -> None:
    made = {"failed": {"outcome": "failed", "changes": {"mem_mb": 2.0, "node": "other"}}}
    history = [made.get(outcome, {"outcome": outcome}) for outcome in outcomes]
    since = (
        outcomes[len(outcomes) - outcomes[::-1].index("released") :] if "released" in outcomes else outcomes
    )
    assert policy.escalation(history, "mem_mb") == 2.0 ** since.count("failed")
    assert policy.escalation(history, "node") == 1.0
