"""Benchmarks on hosts of an inventory: which ones they are, and their life from set-up to tear-down.

The hosts here are this machine under other names; tests/hosts has real ones.
"""

import csv
import json
import os
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from ripresa.dsl import executor
from ripresa.families.benchmarks import collection
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.plan import host_name, plan
from ripresa.hosts import inventory
from ripresa.hosts.inventory import InventoryError, resolve
from ripresa.journal import attempts
from ripresa.journal.paths import Run

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
SECTION = {
    "hosts": ["localhost"], "scratch": None, "preset": "low", "repetitions": 1, "warmup": False,
    "order": "grouped", "seed": 1, "workloads": {"baseline": {"parameters": {"seconds": 0.1}}},
}  # fmt: skip
TREE = {
    "all": {
        "hosts": {"alone": None},
        "children": {
            "bench": {"hosts": {"node1": None, "node2": None}, "children": {"old": {"hosts": {"x9": None}}}}
        },
    }
}


@pytest.fixture
def hosts_file(tmp_path, monkeypatch):
    """An inventory with groups, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump(TREE))
    monkeypatch.setenv("ANSIBLE_INVENTORY", str(path))
    return path


def refuse(*arguments):
    pytest.fail(f"Ansible was started: {arguments}")


# Which hosts


def test_this_machine_costs_nothing(monkeypatch):
    monkeypatch.setattr(inventory, "_ansible", refuse)
    assert resolve(["localhost"]) == ["localhost"]


def test_names_groups_and_patterns_are_those_of_ansible(hosts_file, monkeypatch):
    wanted = ["localhost", "node2", "bench", "all:!bench"]
    assert resolve(wanted) == ["localhost", "node2", "node1", "x9", "alone"]
    monkeypatch.setattr(inventory, "_ansible", refuse)
    assert resolve(wanted) == ["localhost", "node2", "node1", "x9", "alone"], "the answer is kept"
    hosts_file.write_text(yaml.safe_dump(TREE) + "# another\n")
    with pytest.raises(pytest.fail.Exception, match="Ansible was started"):
        resolve(wanted)


def test_all_that_names_no_host_is_told(hosts_file):
    section = json.dumps(
        {**SECTION, "hosts": ["node1", "nodeX", "web*"], "repetitions": {"min": 3, "max": 2, "cv": 0.1}}
    )
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark_plan.py", section, "runs/x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    first, second, third = done.stderr.splitlines()
    assert first.startswith(
        "benchmarks.hosts[1]: 'nodeX' names no host or group of the inventory; groups: bench, old;"
    )
    assert first.endswith("hosts: alone, node1, node2, x9") and second.startswith(
        "benchmarks.hosts[2]: 'web*' names"
    )
    assert third.startswith("benchmarks.workloads.baseline: repetitions: max 2 is below min 3")


def test_an_inventory_that_is_none(hosts_file):
    hosts_file.write_text("all: [\n")
    with pytest.raises(InventoryError, match=rf"^Ansible cannot read {hosts_file}: ") as told:
        resolve(["node1"])
    assert "\n" not in str(told.value)


def test_an_inventory_that_may_change_any_time_is_asked_every_time(tmp_path):
    plain, program, plugin = (tmp_path / name for name in ("plain", "program", "plugin.yaml"))
    plain.write_text("node1\n")
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    plugin.write_text("# of a cloud\nplugin: amazon.aws.aws_ec2\n")
    assert inventory._stamps(str(plain)) and not inventory._stamps(str(program)) + inventory._stamps(
        str(plugin)
    )
    assert not inventory._stamps(str(tmp_path)) + inventory._stamps("node1,node2") + inventory._stamps(None)


# What is planned


def test_a_plan_of_several_hosts():
    own = host_name("localhost")
    fio = {"needs": {"programs": ["nonesuch"]}, "description": "", "command": "x", "metrics": []}
    found = plan(
        {**SECTION, "hosts": ["localhost", "node1"], "workloads": {"baseline": None, "none": fio}}, "runs/x"
    )
    needs = {"none": {"programs": ["nonesuch"]}}
    assert found["hosts"] == [
        {"host": own, "name": "localhost", "needs": needs},
        {"host": "node1", "name": "node1", "needs": needs},
    ]
    skipped = {(one["host"], one["workload"]): one["skipped"] for one in found["series"]}
    assert skipped[own, "none"] and not skipped["node1", "none"], "what a host misses is found out there"
    assert [one["system"] is None for one in found["fingerprints"]] == [False, True]


def test_no_two_hosts_have_their_results_in_one_place():
    with pytest.raises(BenchmarkError, match=r"also a host of the inventory, .* name one of the two"):
        plan({**SECTION, "hosts": ["localhost", host_name("localhost")]}, "runs/x")


def test_only_its_own_executor_says_that_units_run_on_hosts(monkeypatch):
    from snakemake_executor_plugin_ansible import ExecutorSettings

    monkeypatch.setattr(executor, "on_hosts", False)
    ExecutorSettings()
    assert executor.on_hosts


# What is collected


def test_what_is_collected_is_small_and_always_the_same(tmp_path):
    texts = collection.collect(["bash", "nonesuch"], datetime.now(UTC) - timedelta(minutes=1))
    assert "PRETTY_NAME" in texts["os-release.txt"] and "vm.swappiness = " in texts["sysctl.txt"]
    for name in ("a", "b"):
        collection.write(str(tmp_path / name), {**texts, "long.txt": "x" * (1 << 20)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as archive:
        assert {member.name for member in archive} == {f"collected/{name}" for name in (*texts, "long.txt")}
        assert max(member.size for member in archive) == collection.MOST_BYTES


# The whole of it


class Campaign:
    """The real workflow in a directory of its own, with benchmarks only."""

    def __init__(self, folder, **benchmarks):
        self.folder = folder
        for name in ("Snakefile", "rules", "workflow", "profiles"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "config").mkdir()
        self.configure("config", run_id="x", families=["benchmarks"])
        self.configure("recovery", time_scale=0.001)
        self.configure("benchmarks", **{**SECTION, **benchmarks})
        self.run = Run(folder / "runs" / "x")

    def configure(self, name, **values):
        (self.folder / "config" / f"{name}.yaml").write_text(yaml.safe_dump(values))

    def __call__(self, *arguments):
        """Run snakemake to its end; returns its exit code. What it said is in ``said``."""
        names = ("RIPRESA_", "ANSIBLE_")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
        )  # fmt: skip
        self.said = done.stdout
        assert "Traceback" not in self.said, self.said
        return done.returncode

    def skipped(self):
        units = map(json.loads, Path(self.run.units).read_text().splitlines())
        return {unit["target"]: unit["skipped"] for unit in units if unit.get("skipped")}

    def read(self, target):
        return json.loads((self.folder / "runs" / "x" / target).read_text())

    def measured(self):
        """The hosts in the table."""
        with open(self.folder / "runs" / "x" / "benchmarks" / "summary.csv") as file:
            return {row["host"] for row in csv.DictReader(file)}

    def failure(self, target):
        last = attempts.last(self.run, target)
        return last["failure_class"], last["evidence"]


@pytest.mark.slow
def test_the_life_of_a_host(tmp_path):
    """A host under a name of the inventory lives from set-up to tear-down; a dead one keeps back no other."""
    campaign = Campaign(tmp_path, hosts=["localhost", "bench"])
    own, there = host_name("localhost"), tmp_path / "there"
    near = {"ansible_connection": "local", "ripresa_dir": str(there)}
    dead = {"ansible_host": "127.0.0.1", "ansible_port": 9}
    (tmp_path / "config" / "hosts.yaml").write_text(
        yaml.safe_dump({"bench": {"hosts": {"near": near, "dead": dead}}})
    )

    assert campaign() == 0, campaign.said
    assert campaign.measured() == {own}
    assert (
        campaign.skipped()["benchmarks/near/setup.json"]
        == "runs on host near: call `snakemake --profile ansible`"
    )
    assert {target.split("/")[1] for target in campaign.skipped()} == {"near", "dead", "plots"}

    assert campaign("--profile", "profiles/ansible") == 1
    assert campaign.measured() == {own, "near"}
    assert campaign.read("benchmarks/near/setup.json")["python_version"].startswith("3.")
    assert campaign.read("benchmarks/near/teardown.json") == {
        "host": "near", "name": "near", "ended": [], "left": 0, "removed": True,
    }  # fmt: skip
    assert (tmp_path / "runs/x/benchmarks/near/collected.tar.gz").exists() and not there.exists()
    failure_class, evidence = campaign.failure("benchmarks/dead/setup.json")
    assert failure_class == "network" and "host dead: it cannot be reached: " in evidence
    assert not campaign.skipped()

    assert campaign() == 0, campaign.said
    assert campaign.measured() == {own, "near"}, "what was measured elsewhere stays in the table"
