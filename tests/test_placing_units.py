"""Units that ask for devices: the scheduler chooses, the guard leases, the command sees no others."""

import json
import os
import signal
import time

import pytest

from conftest import Campaign, wait_until
from ripresa.dsl import SweepError, Units, devices, open_run
from ripresa.journal import attempts, clock, exclusions, leases, records, state
from ripresa.journal import devices as leased
from ripresa.journal.paths import Run
from ripresa.placement import asking, assigned
from ripresa.placement.asking import Asked
from ripresa.placement.cost import Prediction
from ripresa.placement.durations import Durations
from ripresa.placement.forecast import Job, forecast
from ripresa.placement.inventory import Device
from ripresa.placement.occupancy import Use, slots, with_cores, written
from ripresa.placement.packing import Solver
from ripresa.placement.ready import Kind, Ready
from ripresa.placement.wishes import CPU, GPU, Option, Slot

TWO = {"gpus": [{"name": "g0", "memory_mb": 8000}, {"name": "g1", "memory_mb": 2000}], "cpu_slots": 1}


class Sharing(Campaign):
    """A campaign whose units ask for devices: ``asks(NAME={"gpu": 0.5, "mb": 1000, "priority": 1})``."""

    def __init__(self, directory, locks, settings, on=("gpu",), time_scale=1.0):
        super().__init__(directory)
        resources = f'**devices(units, gpu=asked("gpu", 1), memory_mb=asked("mb", 0), on={on!r})'
        changes = {
            "import Units, guard": "import Units, devices, guard",
            "rule all:": "def asked(what, default):\n"
            "    return lambda wildcards: units.find(wildcards).get(what, default)\n\nrule all:",
            "    shell: guard(": "    priority: asked('priority', 0)\n"
            f"    resources: {resources}\n    shell: guard(",
            '{output}")': '{output}", resources=("gpu_device",))',
            "policy=rules, ": f"policy=rules, devices={settings!r}, ",
            '"time_scale": 0.002': f'"time_scale": {time_scale}',
        }
        snakefile = directory / "Snakefile"
        text = snakefile.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        snakefile.write_text(f"import os\nos.environ['RIPRESA_DEVICES'] = {str(locks)!r}\n{text}")
        # No command may meet another one on a device that it has for itself.
        unit = directory / "unit.sh"
        unit.write_text(f'echo "$1 ${{CUDA_VISIBLE_DEVICES-all}}" >> seen\n{JUDGE}\n{unit.read_text()}')

    def asks(self, **units):
        points = [{"name": name, "value": 1, **given} for name, given in units.items()]
        (self.directory / "units.json").write_text(json.dumps(points))
        for name in units:
            self.does(name, "sleep 0.3")

    def had(self, name):
        """The device of each attempt of a unit."""
        return [record["device"] for record in attempts.read(self.run, f"units/{name}.txt")]

    def seen(self):
        """What each command saw of GPUs, by unit."""
        pairs = (line.split(" ") for line in (self.directory / "seen").read_text().splitlines())
        return dict(pairs)

    def span(self, name):
        record = attempts.read(self.run, f"units/{name}.txt")[-1]
        return clock.seconds(record["started"]), clock.seconds(record["ended"])


JUDGE = """
for gpu in ${CUDA_VISIBLE_DEVICES//,/ }; do
    exec {fd}> "${JUDGES:-.}/$gpu.judge"
    if [ "$RIPRESA_DEVICE_SHARE" = 1.00 ]; then flock -n $fd || exit 9; else flock -n -s $fd || exit 9; fi
done
"""


@pytest.fixture
def locks(tmp_path_factory, monkeypatch):
    """A directory for the locks of this test alone."""
    directory = tmp_path_factory.mktemp("locks")
    directory.chmod(0o1777)
    monkeypatch.setenv("RIPRESA_DEVICES", str(directory))
    return directory


def test_units_get_what_they_ask_for_and_what_cannot_run_here_says_so(tmp_path, locks):
    """Whole ones, two at once, halves side by side, a large one; one that is too large for this machine."""
    campaign = Sharing(tmp_path, locks, TWO)
    half = {"gpu": 0.5, "mb": 900}
    campaign.asks(
        half1=half, half2=half, one={}, pair={"gpu": 2}, large={"mb": 5000, "priority": 1}, huge={"mb": 9000}
    )
    for name, other in (("half1", "half2"), ("half2", "half1")):
        campaign.does(name, f"until grep -q {other} executions; do sleep 0.05; done")
    assert campaign() == 1
    device = {name: campaign.had(name)[0] for name in ("half1", "half2", "one", "pair", "large", "huge")}
    assert campaign.outcomes("huge") == ["failed"] and device.pop("huge") is None
    assert [campaign.outcomes(name) for name in device] == [["published"]] * 5, campaign.said
    assert device["large"] == "g0" and device["one"] in ("g0", "g1")
    assert set(device["pair"].split(",")) == {"g0", "g1"}
    assert device["half1"] == device["half2"] and device["half1"].endswith("@50")
    (begin, end), (other_begin, other_end) = campaign.span("half1"), campaign.span("half2")
    assert max(begin, other_begin) < min(end, other_end), "halves of one device run side by side"
    assert campaign.seen() == {name: given.partition("@")[0] for name, given in device.items()}
    units = {
        unit["target"]: unit for unit in json.loads(campaign.ripresa("status --run test --json"))["units"]
    }
    assert units["units/large.txt"]["device"] == "g0" and units["units/huge.txt"]["state"] == "FAILED"
    told = campaign.ripresa("why --run test huge.txt")
    assert "it needs a GPU with 9000 MB, and there is none here: the largest is g0 with 8000 MB" in told
    assert "it cannot run on this machine" in told and "ask for less in its rule" in told


def test_a_device_that_fails_is_left_at_once_and_an_excluded_one_is_not_used(tmp_path, locks):
    """The delays of gpu_fault are those of the packaged policy: minutes, where there is no other device.
    Memory that runs out asks for a larger one."""
    gpus = [
        {"name": f"g{number}", "memory_mb": memory_mb} for number, memory_mb in enumerate((2000, 9000, 8000))
    ]
    campaign = Sharing(tmp_path, locks, {"gpus": gpus})
    campaign.asks(faulty={"priority": 1}, hungry={"priority": 1}, a={}, b={})
    campaign.does(
        "faulty", "[ $RIPRESA_ATTEMPT = 2 ] || { echo 'CUDA error: unspecified launch failure'; exit 1; }"
    )
    campaign.does("hungry", "[ $CUDA_VISIBLE_DEVICES = g2 ] || { echo 'CUDA out of memory'; exit 1; }")
    os.makedirs(campaign.run.journal)
    exclusions.exclude(campaign.run, "g1", "Xid 79", target="x", attempt=1)
    assert campaign() == 0, campaign.said
    assert campaign.outcomes("faulty") == ["failed", "published"]
    assert sorted(campaign.had("faulty")) == ["g0", "g2"]
    assert campaign.had("hungry") in (["g0", "g2"], ["g2"])
    assert {device for name in "ab" for device in campaign.had(name)} <= {"g0", "g2"}


def test_without_gpus_and_configuration_units_run_beside_each_other(tmp_path, locks):
    campaign = Sharing(tmp_path, locks, None, on=("gpu", "cpu"))
    campaign.asks(a={}, b={}, c={}, d={})
    plan = json.loads(
        campaign.ripresa("plan --run test --placement --json -- --cores 2 --workflow-profile none")
    )
    for name in "abcd":
        campaign.does(name, "until [ $(wc -l < executions) = 4 ]; do sleep 0.05; done")
    assert [unit["device"] for unit in plan["placement"]["units"]] == ["cpu"] * 4
    assert len({unit["start_s"] for unit in plan["placement"]["units"]}) == 2
    assert campaign() == 0, campaign.said
    assert campaign.seen() == dict.fromkeys("abcd", "") and campaign.had("a") == ["cpu"]
    assert max(campaign.span(name)[0] for name in "abcd") < min(campaign.span(name)[1] for name in "abcd")


@pytest.mark.slow
def test_two_controllers_never_share_a_device(tmp_path, locks):
    """What the scheduler sees is only a look: the lease of the guard decides."""
    names = [f"u{n}" for n in range(5)]
    campaigns, started = [], []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        campaign = Sharing(tmp_path / run, locks, {"gpus": ["g0", "g1"]})
        campaign.asks(**{name: {} for name in names})
        for name in names:
            campaign.does(name, "while [ ! -e ../go ]; do sleep 0.02; done; sleep 0.2")
        unit = campaign.directory / "unit.sh"
        unit.write_text(f"JUDGES={tmp_path}\n{unit.read_text()}")
        campaigns.append(campaign)
        started.append(campaign.start("--retries", "2"))
        wait_until(lambda: (leases.owner(campaign.run.controller) or {}).get("pid") == started[-1].pid, 60)  # noqa: B023
    wait_until(lambda: sum(len(campaign.executions()) for campaign in campaigns) == 2, 60)
    time.sleep(1.5)  # the other one has looked, and found nothing free
    assert sum(len(campaign.executions()) for campaign in campaigns) == 2
    (tmp_path / "go").touch()
    for campaign, process in zip(campaigns, started, strict=True):
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
        assert [campaign.outcomes(name) for name in names] == [["published"]] * 5, said


@pytest.mark.slow
def test_a_start_in_vain_costs_no_retry(tmp_path, locks):
    """Somebody takes the device between the look of the scheduler and that of the guard, again and again."""
    campaign = Sharing(tmp_path, locks, {"gpus": ["g0", "g1"]})
    campaign.asks(a={"gpu": 2}, b={})
    snakefile = tmp_path / "Snakefile"
    blind = "devices.shares_free = lambda names: dict.fromkeys(names, 100)"
    snakefile.write_text(f"from ripresa.journal import devices\n{blind}\n{snakefile.read_text()}")
    (lease,) = leased.take("g1")
    lease.sign({})
    controller = campaign.start("--retries", "2")
    try:
        refused = 0
        while refused < 4:
            lease.beat()
            line = controller.stdout.readline()
            assert line
            refused += "is in use" in line
    finally:
        lease.release()
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, said
    assert campaign.outcomes("a") == campaign.outcomes("b") == ["published"]


@pytest.mark.slow
def test_what_a_killed_controller_left_keeps_its_device(tmp_path, locks):
    campaign = Sharing(tmp_path, locks, {"gpus": ["g0"]})
    campaign.asks(a={"priority": 1}, b={})
    campaign.does("a", "while [ ! -e go ]; do sleep 0.05; done")
    controller = campaign.start()
    owner = campaign.running("a")
    assert owner["device"] == "g0"
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait()
    second = campaign.start()
    wait_until(lambda: (leases.owner(campaign.run.controller) or {}).get("pid") == second.pid, 60)
    time.sleep(2.0)
    assert second.poll() is None and campaign.executions() == ["a"]
    assert "on g0" in campaign.ripresa("watch --run test --once")
    (tmp_path / "go").touch()
    said = second.communicate(timeout=120)[0]
    assert second.returncode == 0, said
    assert campaign.outcomes("a") == ["published", "adopted"] and campaign.executions() == ["a", "b"]
    assert campaign.had("b") == ["g0"]


PIPED = """
rule fifo:
    output: pipe("fifo_{name}")
    shell: "echo 1 > {output}"

rule piped:
    input: "fifo_{name}"
    output: piped.target
    resources: **devices(piped, on=("gpu", "cpu"))
    shell: guard("cat {input} > {output}", resources=("gpu_device",))
"""


def test_units_of_a_group_have_a_device_each_and_those_joined_by_a_pipe_are_refused(tmp_path, locks):
    """On one machine Snakemake groups only what has to run at once."""
    campaign = Sharing(tmp_path, locks, {"gpus": ["g0", "g1"]})
    campaign.asks(a={}, b={"gpu": 2})
    snakefile = tmp_path / "Snakefile"
    text = snakefile.read_text().replace("    priority:", "    group: 'all_in_one'\n    priority:")
    text = text.replace("rule all:", "piped = Units('piped/{name}', parameters=[{'name': 'x'}])\n\nrule all:")
    text = text.replace("input: units.targets()", "input: units.targets(), piped.targets()")
    snakefile.write_text(text + PIPED)
    assert campaign() == 1
    assert campaign.had("a")[0] in ("g0", "g1") and campaign.had("b") == ["g0,g1"], campaign.said
    assert campaign.outcomes("a") == campaign.outcomes("b") == ["published"]
    (record,) = attempts.read(campaign.run, "piped/x")
    assert (record["outcome"], record["decision"], record["device"]) == ("failed", "refused", None)
    assert "jobs joined by pipe() or service() get none; use a file" in campaign.ripresa(
        "why --run test piped/x"
    )


FELL_OFF = "NVRM: Xid (PCI:0000:3b:00): 79, pid=3071, GPU has fallen off the bus."


def test_a_broken_gpu_is_left_alone_until_it_is_released(tmp_path, locks):
    """One unit shows that it is broken; that one and all others end on the other GPU."""
    campaign = Sharing(tmp_path, locks, {"gpus": ["gpu-a", "gpu-b"]})
    names = ["one", "two", "three", "four", "five"]
    campaign.asks(**{name: {} for name in names})
    for name in [*names, "later"]:
        campaign.does(
            name,
            f"[ $CUDA_VISIBLE_DEVICES != gpu-a -o -e healed ] || {{ echo '{FELL_OFF}'; exit 1; }}; sleep 0.1",
        )
    assert campaign() == 0, campaign.said
    attempts_on = [device for name in names for device in campaign.had(name)]
    assert sorted(attempts_on) == ["gpu-a", *["gpu-b"] * 5], "no second unit met the broken one"
    (unlucky,) = [name for name in names if len(campaign.had(name)) == 2]
    assert campaign.outcomes(unlucky) == ["failed", "published"]
    assert f"device excluded: gpu-a: {FELL_OFF}" in campaign.ripresa("status --run test")
    told = campaign.ripresa(f"why --run test {unlucky}.txt")
    assert "gpu_fault" in told and FELL_OFF in told and "gpu-a" in told
    assert "have it again" in campaign.ripresa("release --run test --device gpu-a")
    (tmp_path / "healed").touch()
    campaign.asks(**{name: {} for name in [*names, "later", "last"]})
    campaign.does("later", "while [ ! -e executed ]; do sleep 0.05; done")
    campaign.does("last", "touch executed")
    assert campaign() == 0, campaign.said
    assert sorted([*campaign.had("later"), *campaign.had("last")]) == ["gpu-a", "gpu-b"], "both are in use"
    assert exclusions.excluded(campaign.run) == {}


@pytest.mark.slow
def test_the_breaker_of_a_gpu_opens_half_opens_and_closes(tmp_path, locks):
    """Nothing shows that the GPU is broken, but units fail there; meanwhile the other one works."""
    campaign = Sharing(tmp_path, locks, {"gpus": ["gpu-a", "gpu-b"]}, time_scale=0.02)
    names = [f"u{number:02}" for number in range(30)]
    campaign.asks(**{name: {} for name in names})
    for name in names:
        campaign.does(
            name,
            "[ $CUDA_VISIBLE_DEVICES != gpu-a -o -e healed ] || "
            "{ echo 'CUDA error: unspecified launch failure'; exit 1; }; sleep 0.3",
        )
    controller = campaign.start()

    def events(kind):
        return [event for event in records.iterate(campaign.run.events) if event["type"] == kind]

    (opened,) = wait_until(lambda: events("breaker_opened"), 60)
    assert opened["scope"] == "gpu:gpu-a" and opened["failure_class"] == "gpu_fault"
    (tmp_path / "healed").touch()
    assert "breaker open: gpu:gpu-a for " in campaign.ripresa("status --run test")
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, said
    assert said.count("a breaker is open") <= 1, "next to nothing was started in vain"
    (half,), (closed,) = events("breaker_half_open"), events("breaker_closed")
    assert half["scope"] == closed["scope"] == "gpu:gpu-a"
    runs = {
        device: [
            record
            for name in names
            for record in attempts.read(campaign.run, f"units/{name}.txt")
            if record["device"] == device
        ]
        for device in ("gpu-a", "gpu-b")
    }
    while_open = {
        device: [r for r in found if opened["ts"] < r["started"] < half["ts"]]
        for device, found in runs.items()
    }
    assert not while_open["gpu-a"] and len(while_open["gpu-b"]) > 2
    assert [r["outcome"] for r in runs["gpu-a"]].count("failed") == 5
    assert sum(r["started"] > closed["ts"] for r in runs["gpu-a"]) > 2, "it is used as before"
    assert {r["outcome"] for r in runs["gpu-b"]} == {"published"}
    assert exclusions.excluded(campaign.run) == {}


# What rules say


@pytest.fixture
def units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_run("demo")
    return Units("units/{name}", parameters=[{"name": "a"}, {"name": "b"}])


class Wildcards(dict):
    pass


def test_what_a_rule_asks_for_becomes_resources(units):
    given = devices(units, gpu=0.5, memory_mb=lambda w: {"a": 99.5}.get(w["name"], 0), on=("gpu", "cpu"))
    assert (given["gpu"], given["gpu_share"], given["device_kinds"]) == (1, 50, "gpu,cpu")
    assert given["gpu_mem_mb"](Wildcards(name="a")) == 100 and given["gpu_mem_mb"](Wildcards(name="b")) == 0
    assigned.give("units/a", "g1@50")
    assert given["gpu_device"](Wildcards(name="a")) == "g1@50"
    assert given["gpu_device"](Wildcards(name="b")) == "", "as where another executor assigns"
    assigned.give("units/a", "")
    by_unit = devices(units, gpu=lambda w: 3 if w["name"] == "a" else 0.25)
    assert [by_unit[name](Wildcards(name="a")) for name in ("gpu", "gpu_share")] == [3, 100]
    assert [by_unit[name](Wildcards(name="b")) for name in ("gpu", "gpu_share")] == [1, 25]
    assert devices(units, on=("cpu",))["gpu"] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"gpu": 0}, {"gpu": 1.5}, {"gpu": 0.001}, {"gpu": -1}, {"memory_mb": -5}, {"on": ()}, {"on": ("tpu",)}],
)
def test_what_makes_no_sense_is_refused(units, wrong):
    with pytest.raises(SweepError, match=r"units/\{name\}: devices"):
        devices(units, **wrong)


def test_slurm_is_asked_for_whole_gpus_and_nothing_else_of_it(units):
    from ripresa.slurm import request

    given = devices(units, gpu=0.5, memory_mb=3000, on=("gpu", "cpu"))
    given["gpu_device"] = given["gpu_device"](Wildcards(name="a"))
    assert request.options(given, threads=1) == request.options({"gpu": 1}, threads=1)
    assert request.options(devices(units, on=("cpu",)) | {"gpu_device": ""}, threads=1) == request.options(
        {}, threads=1
    )


# What devices can answer

GPUS = [Device("g0", GPU, 8000, 8000), Device("g1", GPU, 2000, 2000)]
RESOURCES = {"gpu": 1, "gpu_share": 100, "gpu_mem_mb": 0, "device_kinds": "gpu", "gpu_device": ""}


def test_what_no_device_can_ever_do_has_a_reason():
    def reason(devices=GPUS, **changed):
        return asking.impossible(asking.asked({**RESOURCES, **changed}, "r"), devices)

    assert reason() is reason(gpu_mem_mb=5000) is reason(gpu=2) is None
    assert "3 GPUs, and there are 2" in reason(gpu=3)
    assert "2 GPUs with 5000 MB, and there is one here" in reason(gpu=2, gpu_mem_mb=5000)
    assert "none that may be used" in reason([]) and "CPU slots" in reason(device_kinds="cpu")
    slot = [Device("cpu0", CPU)]
    assert reason([*GPUS, *slot], device_kinds="gpu,cpu", gpu=9) is None
    assert asking.asked({"mem_mb": 5}, "r") is None
    assert asking.asked({**RESOURCES, "gpu": 0, "device_kinds": "gpu,cpu"}, "r").kinds == ("cpu",)


def test_a_slot_is_what_others_and_units_leave_of_a_device():
    uses = [Use("a", {"g0": 50}, 3000, 100.0, Prediction(60.0, 0.0)), Use("b", {"g1": 100}, 0, 100.0)]
    first, second = slots(GPUS, uses, 110.0)
    assert (first.free, first.memory_mb, first.free_in) == (50, 5000, 50.0)
    assert (second.free, second.free_in) == (0, float("inf"))
    (shared,) = slots(GPUS[:1], uses[:1], 110.0, {"g0": 30}, {"g0": 5000}, {"g0": 2})
    assert (shared.free, shared.memory_mb, shared.starts) == (20, -1, 2), "nothing left is not nothing known"
    (closed,) = slots(GPUS[:1], [], 110.0, starts={"g0": 0})
    assert closed.free == 0
    stand_ins = with_cores([], {"cpu_slots": 0}, 3)
    assert len(stand_ins) == 3 and written([stand_ins[1].name], 100) == "cpu"
    assert with_cores(GPUS, {"cpu_slots": 2}, 3) == GPUS


def place(kinds, capacity, there):
    ready = Ready(Solver(), options=lambda asked: tuple(Option(kind, seconds=10.0) for kind in asked.kinds))
    for job, (priority, asked) in kinds.items():
        ready.add(job, Kind(priority, 0, None, 0, (("_cores", 1),), asked=asked))
    return {job: start and start.devices for job, start in ready.take(capacity, there).items()}


def test_jobs_with_and_without_devices_share_cores_by_priority():
    gpu, there = Asked((GPU,)), [Slot("g0", GPU), Slot("g1", GPU)]
    jobs = {"plain": (0, None), "a": (0, gpu), "urgent": (1, None), "b": (0, gpu), "c": (0, gpu)}
    assert place(jobs, {"_cores": 1}, there) == {"urgent": None}
    assert place(jobs, {"_cores": 3}, there) == {"urgent": None, "a": ("g0",), "b": ("g1",)}
    assert place(jobs, {"_cores": 9}, there).keys() == {"urgent", "plain", "a", "b"}
    avoiding = {"a": (0, gpu._replace(avoid=frozenset(["g0"])))}
    assert place(avoiding, {"_cores": 9}, there) == {"a": ("g1",)}
    first = {"low": (0, gpu), "high": (1, gpu)}
    assert place(first, {"_cores": 9}, there[:1]) == {"high": ("g0",)}, "a device that is taken is taken"


def test_a_forecast_plays_the_scheduler_through():
    durations = Durations()
    for _ in range(30):
        durations.add("r", "", "gpu", 60.0)
    jobs = [Job(f"u{n}", "r", 1, RESOURCES) for n in range(4)]
    jobs.append(Job("last", "r", 1, RESOURCES, frozenset(["u0"])))
    jobs += [
        Job("huge", "r", 1, {**RESOURCES, "gpu_mem_mb": 9000}),
        Job("after", "r", 1, {}, frozenset(["huge"])),
    ]
    found = forecast(jobs, GPUS, 2, durations)
    assert found.impossible.keys() == {"huge"} and found.blocked == ["after"]
    starts = [round(unit.start / 60) for unit in found.units]
    assert starts == [0, 0, 1, 1, 2] and {unit.devices for unit in found.units} == {("g0",), ("g1",)}
    assert found.units[-1].target == "last" or found.units[2].target == "last"
    assert found.interval[0] <= found.end <= found.interval[1] and 170 < found.end < 190
    halves = [job._replace(resources={**RESOURCES, "gpu_share": 50}) for job in jobs[:4]]
    assert 55 < forecast(halves, GPUS, 4, durations).end < 65
    one_core = forecast(halves, GPUS, 1, durations)
    assert 225 < one_core.end < 255


def test_hours_count_parts_of_gpus_by_what_units_cost(tmp_path):
    from ripresa.cli import estimates

    run = Run(tmp_path / "runs" / "demo")
    for n in range(30):
        for size, minutes in (("small", 1), ("large", 30)):
            record = {
                "attempt": 1,
                "rule": "r",
                "outcome": "published",
                "device": "g0",
                "started": clock.iso(1e9),
                "ended": clock.iso(1e9 + 60 * minutes),
                "resources": {"cost": f"model={size}"},
            }
            target = f"{size}{n}"
            records.append(run.attempts(target), {**record, "target": target})
            records.append(run.units, {"target": target, "rule": "r"})

    def hours(places=None, **resources):
        unit = {"target": "x", "rule": "r", "threads": 1, "resources": {**RESOURCES, **resources}}
        return estimates.estimate(run, [unit], places)["gpu_hours"]

    assert 0.4 < hours(cost="model=large") < 0.65 and 0.013 < hours(cost="model=small") < 0.02
    whole, half = hours(cost="model=large"), hours(cost="model=large", gpu_share=50)
    assert half == pytest.approx(whole / 2, abs=0.001)
    assert hours({"x": "cpu"}, device_kinds="gpu,cpu") == 0.0


# What status says of those that wait


def test_a_unit_that_goes_to_any_device_waits_for_none_while_one_is_free(guard, locks, monkeypatch):
    """It failed on one that is in use, or whose breaker is open, and there is another; then there is none."""
    run, target = guard.run, guard.target
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    records.write_json(run.device_settings, {"gpus": ["g0", "g1", "g2"]})
    exclusions.exclude(run, "g2", "Xid 79", target="x", attempt=1)

    def waits(kinds="gpu"):
        records.write_lines(run.units, [{"target": target, "rule": "rule", "device_kinds": kinds}])
        found = state.state_of(run, target).waits_for
        return found and (found["what"], found["names"])

    assert guard("echo 'slurmstepd: error: NODE FAILURE'; exit 1", resources=["gpu_device=g0"]) == 1
    (first,) = leased.take("g0")
    first.sign({})
    assert waits() is None and waits("") == ("device", ["g0"]), "unless its rule names the device"
    (second,) = leased.take("g1@50")
    second.sign({})
    assert waits() == ("device", ["g0", "g1"]) and waits("gpu,cpu") is None
    first.release()
    assert waits() is None
    entry = {"state": "open", "opened_at": clock.iso(), "until": clock.iso(time.time() + 60), "failures": 5}
    records.write_json(run.breakers, {"gpu:g0": entry})
    assert waits() == ("device", ["g1"])
    second.release()
    assert waits() is None
    assert waits("") == ("breaker", ["gpu:g0"]) and state.state_of(run, target).state == state.WAITING
    records.write_json(run.breakers, {"gpu:g0": entry, "gpu:g1": entry})
    assert waits() == ("breaker", ["gpu:g0", "gpu:g1"])
