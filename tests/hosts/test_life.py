"""The life of a host as units, on real hosts: what set-up says of some that cannot be used, what is left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hosts.conftest import wait_until
from ripresa.hosts.client import Client
from ripresa.hosts.transport import Transport
from ripresa.hosts.work import key_of, name_of
from ripresa.journal.paths import Run
from ripresa.recovery.classifier import classify

ROOT = Path(__file__).parents[2]
NEEDS = {"7-zip": {"programs": [["7zz", "7z"]], "packages": {"debian": ["p7zip-full"]}}}


@pytest.fixture
def script(hosts, tmp_path):
    """Runs a script for a host; returns its output, or the class and the evidence of its failure."""

    def run(name, host, needs=None, found=None):
        found = found or hosts.inventory(tmp_path / "inventory")
        environment = {
            **os.environ,
            "ANSIBLE_INVENTORY": str(found.path),
            "RIPRESA_RUN": str(tmp_path / "runs" / "x"),
        }
        if found.vault_password_file:
            environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(found.vault_password_file)
        unit = json.dumps({"host": host, "name": host, "needs": needs or {}})
        done = subprocess.run(
            [sys.executable, ROOT / "workflow" / "scripts" / name, unit, tmp_path / "output"],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return json.loads((tmp_path / "output").read_text())
        verdict = classify(done.stdout + done.stderr, exit_code=done.returncode)
        assert verdict.evidence == done.stderr.strip() and f"host {host}: " in verdict.evidence, done.stderr
        return verdict.failure_class, verdict.evidence

    return run


def test_a_set_up_host(hosts, script):
    told = script("host_setup.py", "h1", NEEDS)
    assert told["host"] == "h1" and told["user"] == "root"
    assert script("host_setup.py", "h1", NEEDS) == told, "it may be done again"
    assert hosts.files("h1") == []


def test_a_host_is_set_up_by_a_user_who_becomes_root(hosts, script, tmp_path):
    found = hosts.inventory(tmp_path / "become", become=True)
    assert script("host_setup.py", "h1", NEEDS, found)["user"] == "root"


@pytest.mark.parametrize(
    ("fault", "mend", "failure_class", "words"),
    [
        ("revoke_key", "grant_key", "permission", "Permission denied"),
        ("fill_disk", "free_disk", "disk", "No space left on device"),
    ],
)
def test_a_host_that_cannot_be_set_up_says_why(hosts, script, fault, mend, failure_class, words):
    getattr(hosts, fault)("h2")
    try:
        found, evidence = script("host_setup.py", "h2")
    finally:
        getattr(hosts, mend)("h2")
    assert found == failure_class and words in evidence, evidence


def test_a_wrong_password_of_sudo(hosts, script, tmp_path):
    found = hosts.inventory(tmp_path / "become", become=True)
    tree = yaml.safe_load(found.path.read_text().replace("!vault ", ""))
    tree["all"]["vars"]["ansible_become_password"] = "wrong"
    found.path.write_text(yaml.safe_dump(tree))
    failure_class, evidence = script("host_setup.py", "h1", None, found)
    assert failure_class == "permission" and "password" in evidence


def test_a_program_that_no_package_brings(script):
    failure_class, evidence = script("host_setup.py", "h1", {"none": {"programs": ["nonesuch"]}})
    assert failure_class == "environment" and "none: nonesuch is not installed" in evidence


def test_tear_down_ends_what_runs_and_leaves_nothing(hosts, script, tmp_path):
    found = hosts.inventory(tmp_path / "inventory")
    transport = Transport([str(found.path)], str(tmp_path / "transport"), print)
    try:
        client = Client(transport, transport.hosts("h1")["h1"], name_of(Run(str(tmp_path / "runs" / "x"))))
        target = "benchmarks/h1/stream/rep1.json"
        order = {
            "op": "start", "key": key_of(target), "token": "t", "target": target, "attempt": 1,
            "session": "s", "digest": "d", "command": "sleep 611", "environment": {}, "directory": None,
            "inputs": [], "folders": [], "outputs": [], "logs": [], "progress": None, "measure": False,
            "limits": {"wall_s": None, "stall_s": None, "stall_source": "", "grace_s": 1, "beat_s": 1},
        }  # fmt: skip
        assert client.exchange([order])["done"] == [{"state": "started"}]
        wait_until(lambda: "sleep 611" in hosts.processes("h1"))
        told = script("host_teardown.py", "h1", found=found)
    finally:
        transport.close()
    assert told == {"host": "h1", "name": "h1", "ended": [target], "left": 0, "removed": True}
    assert hosts.files("h1") == [] and not any(
        "ripresa" in line or "611" in line for line in hosts.processes("h1")
    )
    assert not script("host_teardown.py", "h1", found=found)["removed"], "there is nothing any more"


def test_hosts_do_not_wait_for_each_other(hosts, tmp_path):
    """Of three hosts two cannot be set up: the third has its results, a table of them and its tear-down."""
    found = hosts.inventory(tmp_path / "inventory")
    for name in ("Snakefile", "rules", "workflow", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "config").mkdir()
    settings = {
        "config": {"run_id": "x", "families": ["benchmarks"], "inventory": str(found.path)},
        "recovery": {"time_scale": 0.001},
        "benchmarks": {
            "hosts": ["bench"], "repetitions": 1, "warmup": False,
            "workloads": {"baseline": {"parameters": {"seconds": 0.1}}},
        },
    }  # fmt: skip
    for name, values in settings.items():
        (tmp_path / "config" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    hosts.sshd_down("h2")
    hosts.no_python("h3")
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("RIPRESA_", "ANSIBLE_"))
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--profile", "profiles/ansible"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
    finally:
        hosts.sshd_up("h2")
        hosts.python_back("h3")
    assert done.returncode == 1, done.stderr
    benchmarks = tmp_path / "runs" / "x" / "benchmarks"
    hosts_in_table = {
        line.split(",")[0] for line in (benchmarks / "summary.csv").read_text().splitlines()[1:]
    }
    assert hosts_in_table == {"h1"}
    assert json.loads((benchmarks / "h1" / "teardown.json").read_text())["removed"]
    attempts = {
        host: (tmp_path / f"runs/x/journal/attempts/benchmarks/{host}/setup.json.jsonl")
        .read_text()
        .splitlines()[-1]
        for host in ("h2", "h3")
    }
    assert [json.loads(attempts[host])["failure_class"] for host in ("h2", "h3")] == [
        "network",
        "environment",
    ]
    assert "Python 3.9 or newer is not installed" in attempts["h3"]
    assert all(hosts.files(host) == [] for host in hosts.names)
