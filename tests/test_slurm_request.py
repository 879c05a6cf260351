"""What units ask of SLURM."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripresa.slurm import request

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
NUMBERS = st.integers(1, 10_000)
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "slurm_partition": st.lists(NAMES, min_size=1, max_size=3).map(",".join),
        "slurm_account": NAMES,
        "qos": NAMES,
        "clusters": NAMES,
        "constraint": st.sampled_from(["a100", "a100|h100", "ib&(rack1|rack2)", "[rack1*2&rack2*4]"]),
        "nodes": NUMBERS,
        "tasks": NUMBERS,
        "cpus_per_task": NUMBERS,
        "mem_mb": st.floats(0.1, 1e7),
        "runtime": st.floats(0.01, 1e5),
        "gpu": st.integers(0, 8),
        "gres": st.sampled_from(["shard:1", "license:a:2,shard"]),
        "exclusive": st.sampled_from([True, False, 0, 1, "user"]),
        "slurm_signal": st.sampled_from(["USR1@60", "SIGUSR2@5", "B:USR1@600"]),
        "slurm_extra": st.sampled_from(["--nice=5", "-x n1,n2 --mail-user 'a b'", "--hold --begin=now+60"]),
        "disk_mb": NUMBERS,
        "_nodes": NUMBERS,
    },
)


def asked(threads: int = 1, **resources: Any) -> list[str]:
    return request.options(resources, threads=threads)


@given(RESOURCES, st.integers(1, 128), st.randoms())
def test_equal_requests_give_equal_lists(resources: dict[str, Any], threads: int, random: Any) -> None:
    """Whatever the order of the resources, and whatever is there without a value."""
    wanted = request.options(resources, threads=threads)
    shuffled = list(resources.items())
    random.shuffle(shuffled)
    padded = dict([*shuffled, ("mem_mb_per_cpu", None), ("gpus", None), ("gpu_model", "")])
    assert request.options(padded, threads=threads) == wanted
    assert all(word.startswith("-") and "\n" not in word for word in wanted)
    assert len(request.parsed(wanted)) == len([word for word in wanted if word.startswith("--")])


@given(RESOURCES, st.integers(1, 128))
def test_what_is_asked_for_is_what_was_said_and_nothing_else(resources: dict[str, Any], threads: int) -> None:
    """No option without its resource, and every amount at least what the unit needs."""
    said = request.parsed(request.options(resources, threads=threads))
    assert int(said["cpus-per-task"]) == resources.get("cpus_per_task", threads)
    assert set(said.get("partition", "").split(",")) == set(resources.get("slurm_partition", "").split(","))
    for option, resource in (("mem", "mem_mb"), ("time", "runtime")):
        assert (option in said) == (resource in resources)
        assert 0 <= int(said.get(option, 0)) - resources.get(resource, 0) < 1
    for option, resource in (("account", "slurm_account"), ("qos", "qos"), ("ntasks", "tasks")):
        assert said.get(option, "") == str(resources.get(resource, ""))
    assert ("gpus" in said) == bool(resources.get("gpu"))
    assert ("exclusive" in said) == bool(resources.get("exclusive"))
    assert said.get("signal", "B:").startswith("B:")


def test_the_order_is_its_own() -> None:
    """A request in full, as sbatch gets it."""
    assert asked(
        threads=4,
        slurm_extra="--nice=10 -x 'n[1-2]'",
        slurm_signal="USR1@90",
        runtime=90.5,
        gpus=2,
        gpu_model="a100",
        mem_mb=1000.2,
        qos="long",
        slurm_account="astro",
        slurm_partition="gpu, big",
        constraint="ib&ssd",
    ) == [
        "--partition=big,gpu",
        "--account=astro",
        "--qos=long",
        "--constraint=ib&ssd",
        "--nodes=1",
        "--cpus-per-task=4",
        "--mem=1001",
        "--gpus=a100:2",
        "--time=91",
        "--signal=B:USR1@90",
        "--exclude=n[1-2]",
        "--nice=10",
    ]


def test_one_process_finds_all_its_devices_on_its_node() -> None:
    """Unless the unit says that it spreads."""
    assert "--nodes=1" in asked(gpu=4)
    assert "--nodes=2" in asked(gpu=4, nodes=2)
    assert "--nodes=2" in asked(gpu=4, slurm_extra="-N2")
    assert not [word for word in asked(gpu=4, tasks=4) if word.startswith("--nodes")]
    assert asked(gpu=0, gpu_model="a100") == asked(gpu=0) == asked()


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"gres": "gpu"}, {"gres": "gpu:1"}),
        ({"gres": "gpu:1080ti"}, {"gres": "gpu:1080ti:1"}),
        ({"gres": "shard:2,gpu:a100:1"}, {"gres": "gpu:a100, shard:2"}),
        ({"mem_mb": 0, "mem_mb_per_cpu": 5}, {"mem_mb_per_cpu": 5}),
        ({"mem_mb": 0}, {}),
        ({"gpu": 2}, {"gpus": 2}),
        ({"gpu": 2}, {"gpus": 2, "gpu": 2}),
        ({"slurm_extra": "-p gpu -t5"}, {"slurm_partition": "gpu", "runtime": 5}),
        ({"slurm_extra": "--partition gpu --mem=5"}, {"slurm_partition": "gpu", "mem_mb": 4.5}),
    ],
)
def test_two_ways_to_say_the_same(given: dict[str, Any], same: dict[str, Any]) -> None:
    """Units that want the same go into the same array."""
    assert asked(**given) == asked(**same)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"mem_mb": -1}, "mem_mb = -1"),
        ({"mem_mb": False}, "mem_mb = False"),
        ({"mem_mb": "4 GB"}, "mem_mb = '4 GB'"),
        ({"mem_mb": True}, "mem_mb = True"),
        ({"mem_mb": math.inf}, "mem_mb = inf"),
        ({"runtime": -1}, "runtime = -1"),
        ({"runtime": "<TBD>"}, "runtime = '<TBD>'"),
        ({"nodes": 1.5}, "nodes = 1.5"),
        ({"tasks": 0}, "tasks = 0"),
        ({"cpus_per_task": "4"}, "cpus_per_task = '4'"),
        ({"mem_mb": 5, "mem_mb_per_cpu": 5}, "not both"),
        ({"slurm_partition": "gpu;rm"}, "slurm_partition"),
        ({"slurm_partition": "gpu,"}, "slurm_partition"),
        ({"slurm_account": "-J"}, "slurm_account"),
        ({"constraint": "a b"}, "constraint"),
        ({"gpu": 1, "gpus": 2}, "only one of the two"),
        ({"gpu": 1, "gres": "gpu:1"}, "in one place"),
        ({"gpu": "a100:1"}, "gpu_model"),
        ({"gpu_model": "a100"}, "only with gpu"),
        ({"gres": "gpu:a100:b:1"}, "name:type:count"),
        ({"gres": "gpu:1,gpu:2"}, "gpu only once"),
        ({"exclusive": "yes"}, "exclusive = 'yes'"),
        ({"slurm_signal": "USR1"}, "USR1@SECONDS"),
        ({"slurm_signal": "TERM@60"}, "USR1@SECONDS"),
        ({"slurm_signal": "USR1@70000"}, "65535"),
    ],
)
def test_what_cannot_be_asked(resources: dict[str, Any], words: str) -> None:
    """The error says resource, value and what is allowed, in one line."""
    with pytest.raises(ValueError, match=r"resource \w+ = .*; allowed: .") as error:
        asked(**resources)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "extra",
    [
        "--job-name=x", "--job-name x", "--job-n=x", "-J x", "-Jx", "--array=1-3", "-a1-3", "--comment hello",
        "-o log", "--output=log", "--out=log", "-e log", "--wrap='sleep 1'", "--parsable", "-D /tmp",
        "--chdir=/tmp", "--requeue", "--no-requeue", "--no-req", "--export=NONE", "--test-only", "-W",
        "--wait", "-Q", "--open-mode=append", "script.sh", "--hold script.sh", "-H script.sh", "--nice=5 a b",
        "--", "-- script.sh", "-", "'", "--j=x", "-HJx", "--part=gpu", "-p", "--time", "-t soon",
    ],
)  # fmt: skip
def test_further_options_cannot_take_a_job_from_us(extra: str) -> None:
    """However they are spelt: in short, cut short, or as words that would be the script."""
    with pytest.raises(ValueError, match="slurm_extra"):
        asked(slurm_extra=extra)


@pytest.mark.parametrize(
    ("resources", "extra"),
    [
        ({"runtime": 5}, "--time=10"),
        ({"runtime": 5}, "-t 10"),
        ({"mem_mb": 5}, "--mem-per-cpu=10"),
        ({"mem_mb_per_cpu": 5}, "--mem-per-gpu=10"),
        ({"gpu": 1}, "--gpus-per-node=1"),
        ({}, "-c 4"),
    ],
)
def test_further_options_do_not_contradict_resources(resources: dict[str, Any], extra: str) -> None:
    """What a failure escalated would have no effect otherwise."""
    with pytest.raises(ValueError, match="slurm_extra"):
        asked(**resources, slurm_extra=extra)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 90),
        ("1:30", 1.5),
        ("01:30:00", 90),
        ("1-0", 1440),
        ("1-12:00", 2160),
        ("2-00:00:30", 2880.5),
        ("UNLIMITED", math.inf),
        ("0", math.inf),
    ],
)
def test_time_limits(text: str, wanted: float) -> None:
    """As they stand in scontrol's answers."""
    assert request.minutes(text) == wanted
