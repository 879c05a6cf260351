"""Campaigns of trivial jobs, each of which says in a line that it starts, the same for all who run them."""

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STARTS = "starts"
RULES = """
from ripresa.dsl import Units, guard

trivial = Units("trivial/{{number}}.txt", sweep=config["trivial"]["sweep"])

rule trivial:
    output: trivial.target
    log: trivial.log
    params: unit=trivial.params
    resources: mem_mb=400, runtime=10
    shell: guard("{command}")

campaign.goals += trivial.targets()
"""
SNAKEFILE = """
rule all:
    input: expand("out/{{number}}.txt", number=range({jobs}))

rule trivial:
    output: "out/{{number}}.txt"
    resources: mem_mb=400, runtime=10
    shell: "{command}"
"""


@dataclass(frozen=True)
class Count:
    """What became of a campaign: targets that are right, jobs that started, and started again."""

    right: int
    started: int
    again: int


class Campaign:
    """So many jobs in a directory; ``target`` says where the result of one is."""

    def __init__(self, directory: Path, jobs: int, target: str) -> None:
        self.directory = directory
        self.jobs = jobs
        self._target = target
        directory.mkdir(parents=True)

    def command(self, number: str, output: str) -> str:
        """What a job does, as shell text."""
        return f"echo {number} >> {self.directory}/{STARTS}; echo {number} > {output}"

    def target(self, number: int) -> Path:
        return self.directory / self._target.format(number)

    def count(self) -> Count:
        """Read the targets and the lines that jobs wrote when they started."""
        file = self.directory / STARTS
        starts = Counter(file.read_text().split() if file.exists() else [])
        right = sum(
            self.target(number).exists() and self.target(number).read_text() == f"{number}\n"
            for number in range(self.jobs)
        )
        return Count(right, len(starts), starts.total() - len(starts))


def plain(directory: Path, jobs: int) -> Campaign:
    """A campaign as an ordinary Snakefile."""
    made = Campaign(directory, jobs, "out/{}.txt")
    (directory / "out").mkdir()
    text = SNAKEFILE.format(jobs=jobs, command=made.command("{wildcards.number}", "{output}"))
    (directory / "Snakefile").write_text(text)
    return made


def ours(directory: Path, jobs: int) -> Campaign:
    """A campaign as a family of this project, in a checkout that has no other."""
    made = Campaign(directory, jobs, "runs/throughput/trivial/{}.txt")
    for name in ("Snakefile", "workflow", "profiles"):
        (directory / name).symlink_to(ROOT / name)
    for profile in ("slurm", "local"):
        (directory / profile).symlink_to(f"profiles/{profile}")
    for name in ("rules", "config"):
        (directory / name).mkdir()
    (directory / "rules/common.smk").symlink_to(ROOT / "rules/common.smk")
    rules = RULES.format(command=made.command("{params.unit[number]}", "{output}"))
    (directory / "rules/trivial.smk").write_text(rules)
    (directory / "config/recovery.yaml").symlink_to(ROOT / "config/recovery.yaml")
    sweep = {"product": {"number": list(range(jobs))}}
    for name, values in (
        ("config", {"run_id": "throughput", "families": ["trivial"]}),
        ("trivial", {"sweep": sweep}),
    ):
        (directory / f"config/{name}.yaml").write_text(json.dumps(values))
    return made


def surroundings(given: dict[str, str]) -> dict[str, str]:
    """The environment variables of a call of ours: this interpreter's programs come first."""
    kept = {name: value for name, value in given.items() if not name.startswith("RIPRESA_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"}
