"""What failures teach about the resources that units take, through the real snakemake."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.journal import attempts, records
from ripresa.journal.paths import Run
from ripresa.recovery import escalation
from ripresa.recovery.policy import Decision

SNAKEFILE = """
from ripresa.dsl import Units, escalated, guard, open_run
from ripresa.recovery import policy

campaign = open_run("grow", main=workflow.is_main_process)
units = Units("work/{n}.txt", parameters=[<PARAMETERS>])

rule all:
    input: units.targets()

rule work:
    output: units.target
    params: p=units.params
    resources: <RESOURCES>
    shell:
        guard(
            <COMMAND>,
            resources=(<NAMES>,),
        )

onstart:
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    campaign.start(jobs, config_sha256="", policy=policy.default() | {"rules": [], "time_scale": 0.001})

onsuccess:
    campaign.end()

onerror:
    campaign.end()
"""


class Campaign:
    """A campaign of one rule, run by the real snakemake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder / "runs/grow")

    def rule(
        self,
        command: str,
        *,
        parameters: str = '{"n": 1}',
        names: tuple[str, ...] = ("mem_mb",),
        **given: str,
    ) -> None:
        text = SNAKEFILE.replace("<PARAMETERS>", parameters).replace("<COMMAND>", repr(command))
        resources = ", ".join(f'{name}=escalated(units, "{name}", {how})' for name, how in given.items())
        text = text.replace("<NAMES>", ", ".join(map(repr, names))).replace("<RESOURCES>", resources)
        (self.folder / "Snakefile").write_text(text)

    def __call__(self, *arguments: str, cores: int = 1) -> int:
        call = [
            *(sys.executable, "-m", "snakemake", "--cores", str(cores), "--retries", "10", "--keep-going"),
            *("--scheduler", "recovery", "--nolock", "--rerun-incomplete", "--workflow-profile", "none"),
        ]
        done = subprocess.run(
            [*call, *arguments], cwd=self.folder, capture_output=True, text=True, check=False, timeout=120
        )
        self.said = done.stderr + done.stdout
        assert "Traceback" not in self.said, self.said
        return done.returncode

    def history(self, n: Any = 1) -> list[dict[str, Any]]:
        return attempts.read(self.run, f"work/{n}.txt")

    def amounts(self, n: Any = 1, name: str = "mem_mb") -> list[int]:
        """What each attempt had."""
        return [int(r["resources"][name]) for r in self.history(n) if r["outcome"] != "released"]

    def why(self, n: Any = 1) -> str:
        call = [Path(sys.executable).with_name("ripresa"), "why", "--run", "grow", f"work/{n}.txt"]
        return subprocess.run(call, cwd=self.folder, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """A campaign in a folder of its own."""
    return Campaign(tmp_path)


SHORT = (
    "if [ {{resources.mem_mb}} -lt {least} ]; then echo 'MemoryError: not enough'; exit 1; fi; "
    "echo {{resources.mem_mb}} > {{output}}"
)
LIMITED = (
    "ulimit -v $(({resources.mem_mb} * 1024)); "
    'python -c "x = bytearray(300 * 2**20)"; echo {resources.mem_mb} > {output}'
)


def test_memory_doubles_up_to_its_limit_and_stays(campaign: Campaign) -> None:
    campaign.rule(SHORT.format(least=350), mem_mb="100, limit=350")
    assert campaign() == 0, campaign.said
    assert (campaign.folder / "runs/grow/work/1.txt").read_text() == "350\n"
    assert campaign.amounts() == [100, 200, 350]
    assert [record["failure_class"] for record in campaign.history()] == ["memory", "memory", None]
    assert campaign("--dry-run") == 0
    assert "Nothing to be done" in campaign.said


def test_a_real_limit_is_cured_by_more_memory_and_by_nothing_else(campaign: Campaign) -> None:
    """Up to a limit that is too low, then quarantine, which a higher limit ends by itself."""
    campaign.rule(LIMITED, mem_mb="100, limit=250")
    assert campaign() == 1
    assert campaign.amounts() == [100, 200, 250]
    last = campaign.history()[-1]
    assert (last["failure_class"], last["decision"]) == ("memory", "quarantine")
    assert last["reason"] == "memory: used up 250 MB, the limit of its rule"
    assert "memory: used up 250 MB, the limit of its rule" in campaign.why()
    assert "mem_mb x 1.25" in campaign.why() and "mem_mb 200 -> 250" in campaign.why()
    assert campaign() == 1
    assert len(campaign.amounts()) == 3, "nothing has changed"
    campaign.rule(LIMITED, mem_mb="100, limit=4000")
    assert campaign() == 0, campaign.said
    assert campaign.amounts() == [100, 200, 250, 500]
    assert campaign.history()[3]["changed"] == ["mem_mb"]


def test_without_a_limit_the_memory_of_the_machine_is_one(campaign: Campaign) -> None:
    machine = int(escalation.machine_mb())
    campaign.rule("echo 'MemoryError: not enough'; exit 1; touch {output}", mem_mb=str(machine // 2 + 1))
    assert campaign() == 1
    assert campaign.amounts() == [machine // 2 + 1, machine]
    assert campaign.history()[-1]["reason"] == f"memory: used up {machine} MB, all that this machine has"
    assert campaign.history()[-1]["decision"] == "quarantine"


def test_what_snakemake_is_allowed_in_all_is_a_limit_too(campaign: Campaign) -> None:
    campaign.rule(SHORT.format(least=400), mem_mb="100")
    assert campaign("--resources", "mem_mb=150") == 1
    assert campaign.amounts() == [100, 150]
    assert "see --resources" in campaign.history()[-1]["reason"]
    assert campaign("--resources", "mem_mb=1000") == 0, campaign.said
    assert campaign.amounts() == [100, 150, 300, 600]


def test_a_unit_that_gave_up_goes_on_with_the_next_amount(campaign: Campaign) -> None:
    """Three retries a call; none of the calls begins with an amount that has failed."""
    campaign.rule(SHORT.format(least=3200), mem_mb="100, limit=10000")
    assert campaign() == 1
    assert [r["decision"] for r in campaign.history()] == ["retry", "retry", "retry", "refused"]
    assert campaign() == 0
    assert campaign.amounts() == [100, 200, 400, 800, 1600, 3200]


POINTS = ", ".join(f'{{"n": "{size}{r}", "size": "{size}"}}' for r in range(4) for size in ("big", "small"))


def test_units_alike_start_with_what_worked_in_the_same_call_and_the_next(campaign: Campaign) -> None:
    command = (
        "least=100; case {wildcards.n} in big*) least=400;; esac; "
        "if [ {resources.mem_mb} -lt $least ]; then echo 'MemoryError: x'; exit 1; fi; echo 1 > {output}"
    )
    given = 'like=("size",)'
    campaign.rule(command, parameters=POINTS, mem_mb=f"100, limit=1000, {given}")
    assert campaign() == 0, campaign.said
    big = [campaign.amounts(f"big{r}") for r in range(4)]
    assert sorted(map(len, big)) == [1, 1, 1, 3], "one learnt it for all"
    assert [a[-1] for a in big] == [400] * 4
    assert [campaign.amounts(f"small{r}") for r in range(4)] == [[100]] * 4
    notes = records.read(campaign.run.learnt)
    assert [(n["rule"], n["resource"], n["amount"]) for n in notes] == [("work", "mem_mb", 400)]

    # A torn note is forgotten, and costs nothing else.
    with open(campaign.run.learnt, "a") as file:
        file.write('{"rule":"work","target":"work/small1.txt","resource":"mem_mb","amount":90')
    more = POINTS + ', {"n": "big9", "size": "big"}, {"n": "small9", "size": "small"}'
    campaign.rule(command, parameters=more, mem_mb=f"100, limit=1000, {given}")
    assert campaign() == 0
    assert (campaign.amounts("big9"), campaign.amounts("small9")) == ([400], [100])


def test_jobs_are_packed_by_what_they_get(campaign: Campaign) -> None:
    """Two units of 400 MB find no room side by side in 500 MB, although both were planned with 100."""
    points = ", ".join(f'{{"n": {n}}}' for n in range(4))
    command = (
        "if [ {resources.mem_mb} -lt 400 ]; then sleep 0.2; echo 'MemoryError: x'; exit 1; fi; sleep 0.5; "
        "echo 1 > {output}"
    )
    campaign.rule(command, parameters=points, mem_mb="100, limit=1000")
    assert campaign("--resources", "mem_mb=500", cores=4) == 0, campaign.said
    spans = sorted(
        (r["started"], r["ended"], int(r["resources"]["mem_mb"]))
        for n in range(4)
        for r in campaign.history(n)
    )
    for began, _, _ in spans:
        running = [amount for start, end, amount in spans if start <= began < end]
        assert sum(running) <= 500, spans


def test_a_smaller_batch_cures_the_gpu_and_the_effective_one_stays(campaign: Campaign) -> None:
    trainer = """
import json, sys
batch, steps = int(sys.argv[1]), int(sys.argv[2])
if batch > 12:
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
json.dump({"batch": batch, "effective": batch * steps}, open(sys.argv[3], "w"))
"""
    (campaign.folder / "train.py").write_text(trainer)
    command = "python train.py {resources.batch_size} $((100 / {resources.batch_size})) {output}"
    campaign.rule(command, parameters='{"n": 1}, {"n": 2}', names=("batch_size",), batch_size="100")
    assert campaign() == 0, campaign.said
    tried = sorted((campaign.amounts(n, "batch_size") for n in (1, 2)), key=len)
    assert tried == [[10], [100, 50, 25, 10]], "divisors of 100, and once for both"
    for n in (1, 2):
        made = json.loads((campaign.folder / f"runs/grow/work/{n}.txt").read_text())
        assert made == {"batch": 10, "effective": 100}
    digests = {record["command_sha256"] for n in (1, 2) for record in campaign.history(n)}
    assert len({record["command_sha256"] for record in campaign.history(1)}) == 1, digests


def test_each_unit_starts_from_an_amount_of_its_own(campaign: Campaign) -> None:
    command = (
        "if [ {resources.batch_size} -gt 3 ]; then echo 'CUDA out of memory'; exit 1; fi; "
        "echo {resources.batch_size} > {output}"
    )
    campaign.rule(
        command,
        parameters='{"n": 1, "batch": 12}, {"n": 2, "batch": 8}, {"n": 3, "batch": 12}',
        names=("batch_size",),
        batch_size='lambda p: p["batch"], like=("batch",)',
    )
    assert campaign() == 0, campaign.said
    assert campaign.amounts(2, "batch_size") == [8, 4, 2]
    assert sorted(campaign.amounts(n, "batch_size") for n in (1, 3)) == [[3], [12, 6, 3]], "one learns"


def test_a_batch_of_one_that_fails_is_the_end(campaign: Campaign) -> None:
    command = "echo 'CUDA out of memory: batch {resources.batch_size}'; exit 1; touch {output}"
    campaign.rule(command, names=("batch_size",), batch_size="4")
    assert campaign() == 1
    assert campaign.amounts(name="batch_size") == [4, 2, 1]
    assert campaign.history()[-1]["decision"] == "quarantine"
    assert campaign.history()[-1]["reason"] == "gpu_memory: failed with batch_size 1, the least there is"


def test_time_doubles_up_to_its_limit(campaign: Campaign) -> None:
    """``wall`` ends the attempts, for no test waits a minute."""
    campaign.rule("sleep 60; touch {output}", names=("runtime",), runtime="1, limit=2")
    text = (campaign.folder / "Snakefile").read_text()
    (campaign.folder / "Snakefile").write_text(
        text.replace("resources=('runtime',)", "resources=('runtime',), wall=0.3")
    )
    assert campaign() == 1
    assert campaign.amounts(name="runtime") == [1, 2]
    assert campaign.history()[-1]["reason"] == "time_limit: not done within 2 min, the limit of its rule"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("0", "escalated mem_mb: amount 0 is not a positive number"),
        ("10, limit=-1", "escalated mem_mb: limit -1 is not a positive number"),
        ('10, like=("absent",)', "no parameter 'absent'; there are n"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(campaign: Campaign, how: str, said: str) -> None:
    campaign.rule("touch {output}", mem_mb=how)
    assert campaign("--dry-run") == 1
    assert f"work/{{n}}.txt: {said}" in campaign.said


# The arithmetic

FAILED = {"outcome": "failed", "changes": {"mem_mb": 2.0, "node": "other"}}


@settings(deadline=None)
@given(st.lists(st.sampled_from(["failed", "other", "published", "released", "changed"]), max_size=12))
def test_what_is_asked_for_outlives_success_and_ends_with_a_release(outcomes: list[str]) -> None:
    made = {"failed": FAILED, "changed": {"outcome": "released", "changed": ["a.sh"]}}
    history = [made.get(outcome, {"outcome": outcome}) for outcome in outcomes]
    after = len(outcomes) - outcomes[::-1].index("released") if "released" in outcomes else 0
    assert escalation.asked(history, "mem_mb", 100) == 100 * 2.0 ** outcomes[after:].count("failed")
    assert escalation.asked(history, "node", 1) == 1


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.none() | st.integers(1, 5000))
def test_what_shrinks_always_divides_what_it_was(first: int, asked: int, limit: int | None) -> None:
    amount = escalation.bounded(min(asked, first), first, limit, shrinks=True)
    assert 1 <= amount <= first and first % amount == 0
    assert amount >= min(limit or 1, first)
    assert amount <= max(asked, next(n for n in range(min(limit or 1, first), first + 1) if first % n == 0))


@settings(deadline=None)
@given(st.integers(1, 10**6), st.none() | st.integers(1, 10**7), st.integers(1, 12))
def test_escalation_ends_in_quarantine_and_never_repeats_an_amount(
    tmp_path_factory: pytest.TempPathFactory, first: int, limit: int | None, share: int
) -> None:
    for factor in (2.0, 1 / share - 0.01 * (share == 1)):
        if factor > 1 and limit is None:
            continue
        run = Run(tmp_path_factory.mktemp("run") / "r")
        entry = {"expression": "t", "resource": "x", "first": min(first, 5000), "limit": limit}
        records.write_json(run.escalated, [entry])
        history: list[dict[str, Any]] = []
        seen: list[int] = []
        for _ in range(40):
            asked = escalation.asked(history, "x", entry["first"])
            amount = escalation.bounded(asked, entry["first"], limit, shrinks=factor < 1)
            assert amount not in seen
            seen.append(amount)
            record = {
                "target": "t",
                "failure_class": "memory",
                "outcome": "failed",
                "resources": {"x": f"{amount}"},
            }
            decision = escalation.settle(run, record, history, {"x": factor}, Decision("retry", None, {}, ""))
            history.append(record | {"changes": decision.changes, "decision": decision.decision})
            if decision.decision == "quarantine":
                break
        assert history[-1]["decision"] == "quarantine"


def test_only_what_can_be_taken_up_is_changed_and_places_are_excluded(tmp_path: Path) -> None:
    run = Run(tmp_path)
    wanted = {"gpu": "other", "node": "other", "mem_mb": 2.0}
    record = {"target": "t", "failure_class": "gpu_fault", "host": "n1", "device": "3", "resources": {}}
    retry = Decision("retry", None, wanted, "")
    assert escalation.settle(run, record, [], wanted, retry).changes == {"gpu": "other", "node": "other"}
    assert record["excluded"] == {"gpu": "3", "node": "n1"}
    elsewhere = {"target": "t", "failure_class": "gpu_fault", "host": "n1", "device": None}
    assert escalation.settle(run, elsewhere, [], {"gpu": "other"}, retry).changes == {}
    assert "excluded" not in elsewhere


@pytest.mark.parametrize(
    "table", [None, 3, [3], [{}], [{"resource": "x", "expression": "("}], [{"resource": "x"}]]
)
def test_a_damaged_table_escalates_nothing(tmp_path: Path, table: Any) -> None:
    run = Run(tmp_path)
    records.write_json(run.escalated, table)
    assert escalation.declaration(run, "t", "x") is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_is_a_machine_of_its_size(version: int) -> None:
    found = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    root = Path("/sys/fs/cgroup/memory" if version == 1 else "/sys/fs/cgroup")
    group = root / found.get("memory" if version == 1 else "", "/").strip("/") / f"test{os.getpid()}"
    limit = group / ("memory.limit_in_bytes" if version == 1 else "memory.max")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no right to make a control group here")
    try:
        if not limit.exists():
            pytest.skip("no memory controller of this version")
        limit.write_text(str(512 * 2**20))
        code = "from ripresa.recovery.escalation import machine_mb; print(machine_mb())"
        enter = f'echo $$ > {group}/cgroup.procs && exec {sys.executable} -c "{code}"'
        done = subprocess.run(["bash", "-c", enter], capture_output=True, text=True, check=True)
        assert done.stdout == "512.0\n"
        assert escalation.machine_mb() > 512
    finally:
        group.rmdir()


@pytest.mark.parametrize("amount", [None, "8", -1, float("inf"), True])
def test_damaged_notes_teach_nothing(tmp_path: Path, amount: Any) -> None:
    run = Run(tmp_path)
    records.append(run.learnt, {"resource": "x", "target": "t", "amount": amount})
    records.append(run.learnt, {"resource": 3, "target": "t", "amount": 3})
    learnt = escalation.Learnt(run)
    assert learnt.refresh() and not learnt.refresh()
    assert learnt.notes == []
