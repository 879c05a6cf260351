"""What a cluster allows, and what is said of requests that it would never start."""

import contextlib
import os
import stat
import subprocess
from typing import Any

import pytest

from ripresa.slurm import limits, request
from ripresa.slurm.commands import Unanswered

PARTITION = (
    "PartitionName={} AllowAccounts={} AllowQos={} Default={} MaxNodes=UNLIMITED MaxTime={} "
    "MaxCPUsPerNode=UNLIMITED Nodes=n[1-9] State=UP MaxMemPerNode={} TRES=cpu=8,mem=8000M"
)
NODE = (
    "NodeName={} Arch=x86_64 CPUAlloc=0 CPUEfctv={} CPUTot=16 AvailableFeatures={} ActiveFeatures=(null) "
    "Gres={} OS=Linux x=y RealMemory={} State={} Partitions={} Reason=bad disk, PSU=gone [root@2026-01-09]"
)
ANSWERS = {
    "partition": [
        PARTITION.format("cpu", "ALL", "ALL", "YES", "1-00:00:00", "UNLIMITED"),
        PARTITION.format("gpu", "astro,bio", "normal,long", "NO", "UNLIMITED", "6000"),
        PARTITION.format("small", "ALL", "ALL", "NO", "30:00", "UNLIMITED"),
    ],
    "node": [
        NODE.format("n1", 16, "ssd,rack1", "(null)", 4000, "IDLE", "cpu"),
        NODE.format("n2", 8, "rack2", "(null)", 64000, "DOWN*", "cpu"),
        NODE.format("n3", 4, "ssd", "gpu:a100:2(S:0-1),gpu:t4:1,shard:4K", 8000, "MIXED", "gpu"),
        NODE.format("n4", 2, "(null)", "(null)", 1000, "IDLE", "small"),
    ],
    "config": [
        "Configuration data as of 2026-01-09",
        "AccountingStorageEnforce = associations,limits,qos",
        "AccountingStorageType   = accounting_storage/slurmdbd",
        "ClusterName             = lab",
    ],
    "assoc": [
        "astro||normal,long,wide|normal|2-00:00:00|node=8",
        "physics|cpu|normal,long||2-00:00:00|node=8",
    ],
    "qos": ["normal|DenyOnLimit||", "long|PartitionTimeLimit||", "wide||30|cpu=64,gres/gpu=1,mem=10G"],
}


def answering(changed: dict[str, Any] | None = None) -> Any:
    """Stands in for the commands; an answer that is an error is raised."""
    answers = {**ANSWERS, **(changed or {})}
    calls = []

    def answer(command: Any) -> str:
        calls.append(list(command))
        found = answers[next(word for word in command if word in answers)]
        if isinstance(found, Exception):
            raise found
        return "\n".join(found) + "\n"

    answer.calls = calls  # type: ignore[attr-defined]
    return answer


def problems(cluster: limits.Limits | None = None, **resources: Any) -> list[str]:
    return limits.check(request.options(resources, threads=1), cluster or limits.ask(answering()))


def test_each_command_is_called_once() -> None:
    """Whatever the number of units."""
    answer = answering()
    cluster = limits.ask(answer)
    assert [call[0] for call in answer.calls] == ["scontrol"] * 3 + ["sacctmgr"] * 2
    assert cluster.name == "lab" and not cluster.unchecked
    assert cluster.nodes and cluster.nodes[2].gres == {"gpu": 3, "gpu:a100": 2, "gpu:t4": 1, "shard": 4096}
    assert cluster.nodes[1].features == {"rack2"}


@pytest.mark.parametrize(
    "resources",
    [
        {},
        {"cpus_per_task": 16, "mem_mb": 4000},
        {"mem_mb": 64000, "runtime": 1440},
        {"slurm_partition": "gpu", "gpu": 2, "gpu_model": "a100", "mem_mb": 6000},
        {"slurm_partition": "gpu", "gpu": 3},
        {"slurm_partition": "gpu", "gres": "gpu:t4:1,shard:4000", "slurm_account": "Astro", "qos": "long"},
        {"slurm_partition": "small,gpu", "runtime": 2000, "slurm_account": "astro"},
        {"constraint": "rack1|rack2"},
        {"runtime": 2000, "qos": "long"},
        {"constraint": "[rack1|rack2]"},
        {"nodes": 2, "tasks": 16},
        {"slurm_partition": "elsewhere", "clusters": "other", "mem_mb": 10**9},
    ],
)
def test_what_the_cluster_can_do(resources: dict[str, Any]) -> None:
    """Also on nodes that are down for now, and in one partition of several."""
    assert problems(**resources) == []


def test_the_most_that_a_unit_can_ask_for() -> None:
    """In the best of its partitions; what has no limit is not there."""
    cluster = limits.ask(answering())

    def most(**resources: Any) -> dict[str, float]:
        return limits.most(request.options(resources, threads=1), cluster)

    assert most() == {"mem_mb": 64000, "runtime": 1440}
    assert most(slurm_partition="small") == {"mem_mb": 1000, "runtime": 30}
    assert most(slurm_partition="gpu,small") == {"mem_mb": 6000}
    assert most(slurm_partition="elsewhere") == most(clusters="other") == {}
    assert limits.most([], limits.Limits()) == {}


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({"slurm_partition": "gpus"}, ["partition gpus does not exist; there are cpu, gpu, small"]),
        (
            {"slurm_partition": "small,gpus"},
            ["partition gpus does not exist; there are cpu, gpu, small"],
        ),
        ({"slurm_account": "bio"}, ["has no account bio; there is astro, physics"]),
        ({"slurm_account": "physics", "qos": "wide"}, ["QOS wide is not open to user", "is long, normal"]),
        (
            {"qos": "wide", "runtime": 31, "cpus_per_task": 13, "tasks": 5, "mem_mb": 10241},
            [
                "31 min (--time) is more than QOS wide allows: 30 min",
                "cpu = 65 is more than QOS wide allows: 64",
                "mem = 10,241 is more than QOS wide allows: 10,240",
            ],
        ),
        ({"slurm_partition": "gpu", "gpu": 2, "qos": "wide"}, ["gres/gpu = 2 is more than QOS wide"]),
        ({"nodes": 9}, ["node = 9 is more than accounting allows: 8"]),
        ({"runtime": 1441}, ["partition cpu: 1 d 0:01 h (--time) is more than its limit of 1 d 0:00 h"]),
        (
            {"slurm_partition": "gpu", "runtime": 2881, "slurm_account": "astro"},
            ["2 d 0:01 h (--time) is more than accounting allows: 2 d 0:00 h"],
        ),
        (
            {"slurm_partition": "gpu,small", "runtime": 1000, "slurm_account": "physics"},
            ["gpu: account physics is not allowed; it takes astro, bio", "partition small: 16:40 h (--time)"],
        ),
        ({"slurm_partition": "gpu", "mem_mb": 7000}, ["no node has 7,000 MB of memory; 6,000 MB at most"]),
        ({"cpus_per_task": 17}, ["partition cpu: no node has 17 CPUs; 16 at most"]),
        ({"mem_mb_per_cpu": 8001, "cpus_per_task": 8}, ["no node has 64,008 MB of memory"]),
        ({"cpus_per_task": 16, "mem_mb": 5000}, ["no node has all of --cpus-per-task=16 --mem=5000"]),
        ({"gpu": 1}, ["partition cpu: no node has 1 x gpu; none has any"]),
        ({"slurm_partition": "gpu", "gres": "gpu:t4:2"}, ["no node has 2 x gpu:t4; 1 at most"]),
        ({"constraint": "ssd&rack9"}, ["no node has the feature rack9 (--constraint); there are rack1,"]),
        ({"constraint": "ssd&rack2"}, ["partition cpu: no node has all of", "--constraint=ssd&rack2"]),
        ({"nodes": 3}, ["only 2 of 3 nodes have all of --nodes=3"]),
        ({"tasks": 25}, ["25 tasks of 1 CPUs do not fit; 24 do"]),
    ],
)  # fmt: skip
def test_what_it_would_refuse_or_never_start(resources: dict[str, Any], wanted: list[str]) -> None:
    """In plain words, with what there is instead."""
    found = problems(**resources)
    assert found and all(any(words in line for line in found) for words in wanted), found


def test_no_default_partition() -> None:
    """Then one has to be asked for."""
    lines = [line.replace("Default=YES", "Default=NO") for line in ANSWERS["partition"]]
    assert "has no default" in problems(limits.ask(answering({"partition": lines})))[0]


def test_accounts_count_only_where_they_are_enforced() -> None:
    """Elsewhere SLURM takes any name."""
    config = [line.replace("associations,limits,qos", "none") for line in ANSWERS["config"]]
    answer = answering({"config": config})
    cluster = limits.ask(answer)
    assert len(answer.calls) == 3
    assert problems(cluster, slurm_account="bio") == []


def test_what_cannot_be_asked_is_not_checked_and_said_so() -> None:
    """An outage is no verdict on a request."""
    cluster = limits.ask(answering({"assoc": Unanswered("sacctmgr failed: no slurmdbd")}))
    assert cluster.unchecked == ("accounts and QOS: sacctmgr failed: no slurmdbd",)
    assert problems(cluster, slurm_account="bio") == []
    assert problems(cluster, slurm_partition="gpus")
    cluster = limits.ask(answering({"partition": Unanswered("no slurmctld")}))
    assert "no slurmctld" in cluster.unchecked[0] and problems(cluster, slurm_partition="gpus") == []
    assert limits.ask(answering({"node": ["NodeName="], "assoc": ["a|b"]})).unchecked


def test_commands_that_hang_or_are_not_there(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that is down costs one timeout, not one a command."""
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert "is SLURM installed here?" in limits.ask().unchecked[0]
    script = tmp_path / "scontrol"
    script.write_text(f"#!/bin/sh\necho >> {tmp_path}/calls\nexec {os.path.realpath('/bin/sleep')} 60\n")
    script.chmod(stat.S_IRWXU)
    with monkeypatch.context() as impatient:
        impatient.setattr(limits, "ANSWER_S", 3.0)
        assert "no answer within" in limits.ask().unchecked[0]
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    script.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    assert "Unable to contact slurm controller" in limits.ask().unchecked[0]


@pytest.mark.slurm
@pytest.mark.slow
def test_a_real_cluster_agrees(slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told to be wrong is refused or waits for ever, and all else runs."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    cluster = limits.ask()
    assert cluster.unchecked == () and cluster.nodes and cluster.associations and cluster.qualities
    fine: list[dict[str, Any]] = [
        {"cpus_per_task": 8, "mem_mb": 4000, "runtime": 60},
        {"slurm_partition": "gpu", "gpu": 2, "gpu_model": "fake"},
        {"slurm_partition": "gpu", "gres": "gpu:1"},
        {"slurm_partition": "short,cpu", "runtime": 60, "slurm_account": "proj"},
        {"qos": "small", "cpus_per_task": 2, "runtime": 10},
        {"nodes": 3, "mem_mb_per_cpu": 100},
    ]
    wrong: list[dict[str, Any]] = [
        {"slurm_partition": "nowhere"},
        {"slurm_account": "closed"},
        {"slurm_account": "nobody"},
        {"qos": "nothing"},
        {"qos": "strict", "tasks": 4},
        {"cpus_per_task": 9},
        {"mem_mb": 8001},
        {"gpu": 1},
        {"slurm_partition": "gpu", "gpu": 3},
        {"slurm_partition": "gpu", "gres": "gpu:real:1"},
        {"constraint": "warp"},
        {"nodes": 4},
        {"tasks": 25},
        {"slurm_partition": "short", "runtime": 60},
        {"slurm_partition": "short", "mem_mb": 2000},
        {"qos": "small", "tasks": 4},
        {"qos": "small", "runtime": 11},
    ]
    waiting, running = {}, []
    for resources in wrong:
        assert problems(cluster, **resources), resources
        with contextlib.suppress(subprocess.CalledProcessError):
            waiting[slurm.submit("true", *request.options(resources, threads=1))] = resources
    for resources in fine:
        assert problems(cluster, **resources) == []
        running.append(slurm.submit("true", *request.options(resources, threads=1)))
    assert {slurm.wait(job) for job in running} == {"COMPLETED"}
    assert [resources for job, resources in waiting.items() if slurm.state_of(job) != "PENDING"] == []
    print("not refused, but waiting for ever:", *waiting.values(), sep="\n")
