"""Ordinary workflows, without a guard, on the executor `ansible`: Snakemake's own tests and small ones."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.common.tests import TestWorkflowsLocalStorageBase

from conftest import wait_until
from snakemake_executor_plugin_ansible import ExecutorSettings

SHARED = """
all:
  hosts:
    one: {ansible_connection: local, ripresa_shared: true, ripresa_dir: "%s"}
"""


class TestWorkflowsOnASharedFileSystem(TestWorkflowsLocalStorageBase):
    """What Snakemake asks of every executor."""

    __test__ = True

    @pytest.fixture(autouse=True)
    def inventory(self, tmp_path_factory, monkeypatch):
        folder = tmp_path_factory.mktemp("inventory")
        self._inventory = folder / "hosts.yaml"
        self._inventory.write_text(SHARED % (folder / "root"))
        monkeypatch.delenv("RIPRESA_RUN", raising=False)

    def get_executor(self):
        return "ansible"

    def get_executor_settings(self):
        return ExecutorSettings(inventory=str(self._inventory))


STAGED = """
all:
  hosts:
    one: {ansible_connection: local, ripresa_dir: "%s"}
"""


class Workflow:
    """A Snakefile that runs in staged mode: its jobs see nothing of the directory but what is sent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "workflow"
        self.directory.mkdir()
        self.root = directory / "root"
        self.inventory = directory / "hosts.yaml"
        self.inventory.write_text(STAGED % self.root)

    def __call__(self, snakefile: str, *arguments: str, files=None) -> int:
        for name, text in (files or {}).items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self.end(self.start(snakefile, *arguments))

    def start(self, snakefile: str, *arguments: str) -> subprocess.Popen[str]:
        """A controller, in a process group of its own."""
        (self.directory / "Snakefile").write_text(snakefile)
        call = [sys.executable, "-m", "snakemake", "--executor", "ansible", "--jobs", "4", "--nolock"]
        call += ["--ansible-inventory", str(self.inventory), "--workflow-profile", "none", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        return subprocess.Popen(
            call,
            cwd=self.directory,
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, controller: subprocess.Popen[str]) -> int:
        """The exit code of a controller, once it has ended; what it said is in `said`."""
        self.said = controller.communicate(timeout=240)[0]
        assert "Traceback" not in self.said, self.said
        return controller.returncode

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


FEATURES = """
rule all:
    input: "sum.txt", "group.txt"

rule several:
    input: "data/{name}.txt"
    output: first="out/{name}.a", second="out/{name}.b", folder=directory("out/{name}.d")
    log: "logs/{name}.log"
    benchmark: "bench/{name}.tsv"
    params: word="it's"
    threads: 2
    shell:
        "mkdir {output.folder}; pwd > {output.folder}/where; "
        "cat {input} > {output.first}; echo {params.word:q} {threads} $OMP_NUM_THREADS > {output.second}; "
        "python3 helper.py >> {output.second}; echo done > {log}"

rule intermediate:
    input: "out/{name}.a"
    output: temp("tmp/{name}.txt")
    shell: "tr a-z A-Z < {input} > {output}"

rule together:
    input: expand("tmp/{name}.txt", name=["x", "y"]), "out/x.d", "out/y.b"
    output: "sum.txt"
    shell: "cat {input[0]} {input[1]} {input[2]}/where {input[3]} > {output}"

rule first_of_group:
    output: temp("grouped.tmp")
    group: "pair"
    shell: "hostname > {output}; echo $PWD >> {output}"

rule second_of_group:
    input: "grouped.tmp"
    output: "group.txt"
    group: "pair"
    shell: "cat {input} > {output}; echo $PWD >> {output}"
"""


def test_jobs_find_what_they_need_and_bring_back_what_they_make(workflow):
    files = {"data/x.txt": "abc\n", "data/y.txt": "def\n", "helper.py": "print('helped')\n"}
    assert workflow(FEATURES, files=files) == 0, workflow.said
    upper_x, upper_y, where, word, helped = workflow.read("sum.txt").splitlines()
    assert (upper_x, upper_y) == ("ABC", "DEF")
    assert where.startswith(str(workflow.root))
    assert word == "it's 2 2"
    assert helped == "helped"
    assert workflow.read("logs/x.log") == "done\n"
    header, values = workflow.read("bench/x.tsv").splitlines()
    assert header.split("\t")[:3] == ["s", "h:m:s", "max_rss"]
    assert float(values.split("\t")[0]) > 0
    _, here, there = workflow.read("group.txt").splitlines()
    assert here == there != str(workflow.directory)
    assert not (workflow.directory / "tmp/x.txt").exists()
    assert not workflow.root.exists(), "something is left on the host"


def test_a_job_that_fails_leaves_its_log_file_here(workflow):
    rule = 'rule a:\n    output: "a.txt"\n    log: "a.log"\n'
    rule += '    shell: "echo because > {log}; echo half > {output}; exit 3"\n'
    assert workflow(rule) == 1
    assert workflow.read("a.log") == "because\n"
    assert not (workflow.directory / "a.txt").exists()
    assert "exit code 3" in workflow.said


def test_a_rule_that_needs_snakemake_on_the_host_is_refused_in_one_line(workflow):
    rule = 'rule a:\n    output: "a.txt"\n    run:\n        open(output[0], "w").write("x")\n'
    assert workflow(rule) == 1
    assert "Snakemake around it" in workflow.said


def test_an_input_from_elsewhere_is_refused_in_one_line(workflow, tmp_path):
    (tmp_path / "far.txt").write_text("far")
    rule = f'rule a:\n    input: "{tmp_path}/far.txt"\n    output: "a.txt"\n'
    rule += '    shell: "cp {input} {output}"\n'
    assert workflow(rule) == 1
    assert "lies outside the working directory" in workflow.said


def test_an_unknown_host_is_named_with_those_there_are(workflow):
    rule = 'rule a:\n    output: "a.txt"\n    resources: host="two"\n    shell: "touch {output}"\n'
    assert workflow(rule) == 1
    assert "two" in workflow.said and "one" in workflow.said


ORDERED = """
rule all:
    localrule: True
    input: expand("{name}.measured", name=list("abcd"))
rule warm:
    output: "{name}.warm"
    priority: lambda w: -ord(w.name)
    resources: exclusive=1
    shell: "echo {wildcards.name} >> ORDER; touch {output}"
rule measure:
    input: "{name}.warm"
    output: "{name}.measured"
    priority: lambda w: 0.5 - ord(w.name)
    resources: exclusive=1
    shell: "echo {wildcards.name} >> ORDER; touch {output}"
"""


def test_what_becomes_ready_by_the_end_of_a_job_takes_its_host_if_it_is_more_urgent(workflow):
    order = workflow.root.parent / "order"
    assert workflow(ORDERED.replace("ORDER", str(order))) == 0, workflow.said
    assert order.read_text().split() == [name for name in "abcd" for _ in range(2)]


def test_what_runs_when_the_controller_is_killed_is_not_started_again(workflow):
    starts = workflow.root.parent / "starts"
    rule = 'rule a:\n    output: "a.txt"\n'
    rule += f'    shell: "echo started >> {starts}; sleep 4; echo x > {{output}}"\n'
    controller = workflow.start(rule)
    wait_until(starts.exists, 120)
    controller.kill()
    controller.wait()
    assert workflow(rule, "--rerun-incomplete") == 0, workflow.said
    assert starts.read_text() == "started\n"
    assert "going on with its attempt on host one" in workflow.said
    assert json.loads((workflow.directory / ".snakemake/ansible/journal/hosts.json").read_text()) == []


LONG = """
rule all:
    localrule: True
    input: "here.txt", "there.txt"
rule here:
    localrule: True
    output: "here.txt"
    shell: "trap 'kill $!; sleep 2; exit 1' INT; touch here.started; sleep 60 & wait"
rule there:
    output: "there.txt"
    shell: "STUBBORN touch THERE; for i in $(seq 60); do sleep 1 || true; done"
"""


def test_an_interrupted_call_ends_what_it_runs_here_and_there(workflow):
    there = workflow.root.parent / "there.started"
    controller = workflow.start(LONG.replace("STUBBORN", "").replace("THERE", str(there)))
    wait_until(lambda: there.exists() and (workflow.directory / "here.started").exists(), 120)
    os.killpg(controller.pid, signal.SIGINT)
    assert workflow.end(controller) == 1
    assert not list(workflow.root.rglob("*")), "nothing is left there"


def test_a_call_that_is_interrupted_again_says_what_is_left(workflow):
    there, told = (workflow.root.parent / name for name in ("there.started", "told"))
    stubborn = LONG.replace('"here.txt", ', "").replace("STUBBORN", f"trap 'touch {told}' TERM;")
    controller = workflow.start(stubborn.replace("THERE", str(there)))
    wait_until(there.exists, 120)
    os.killpg(controller.pid, signal.SIGINT)
    wait_until(told.exists, 120)
    os.killpg(controller.pid, signal.SIGINT)
    assert workflow.end(controller) == 1
    assert "interrupted again: what is left on the hosts is removed by the next call" in workflow.said
