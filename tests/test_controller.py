"""Campaigns run by the real snakemake, interrupted in every way: no manual step, nothing twice or lost."""

import json
import os
import signal
import time

import pytest

from conftest import overlapping, wait_until
from ripresa.journal import attempts, controller, leases, processes, records


def contents(campaign, **values):
    """What the targets hold when all is well."""
    return {name: f"begin {value}\nend {value}\n" for name, value in values.items()} == {
        name: campaign.path(name).read_text() for name in values if campaign.path(name).exists()
    }


def history(campaign, name):
    return attempts.read(campaign.run, f"units/{name}.txt")


def test_a_campaign_and_what_a_changed_parameter_reruns(campaign):
    campaign.units(a=1, b=2, c=3)
    campaign.does("b", '[ "$RIPRESA_ATTEMPT" -ge 3 ] || { echo "Connection timed out"; exit 255; }')
    assert campaign() == 0
    assert contents(campaign, a=1, b=2, c=3)
    assert campaign.outcomes("b") == ["failed", "failed", "published"]
    assert overlapping(history(campaign, "b")) == []
    assert os.listdir(campaign.run.leases) == []
    assert controller.holder(campaign.run) is None
    before = campaign.executions()
    assert campaign() == 0
    assert campaign.executions() == before, "nothing to do"
    campaign.units(a=1, b=20, c=3)
    assert campaign() == 0
    assert campaign.executions() == [*before, "b"]
    assert contents(campaign, a=1, b=20, c=3)
    assert campaign("--forcerun", "unit") == 0
    assert sorted(campaign.executions()[len(before) + 1 :]) == ["a", "b", "c"]


def test_a_second_controller_is_refused_and_disturbs_nothing(campaign):
    campaign.units(quick=1, slow=2)
    campaign.does("slow", "touch begun; while [ ! -e go ]; do sleep 0.05; done")
    first = campaign.start()
    wait_until((campaign.directory / "begun").exists)
    wait_until(campaign.path("quick").exists)
    held = controller.holder(campaign.run)
    assert campaign() != 0
    (line,) = [line for line in campaign.said.splitlines() if "is held by another controller" in line]
    assert f"process {first.pid} on {os.uname().nodename} since {held['started']}" in line
    assert campaign("--dry-run") == 0
    assert "quick" not in [line.split()[-1] for line in campaign.said.splitlines() if "output:" in line]
    assert controller.holder(campaign.run) == held
    campaign.directory.joinpath("go").touch()
    assert first.wait(240) == 0
    assert contents(campaign, quick=1, slow=2)
    assert sorted(campaign.executions()) == ["quick", "slow"]


def test_what_failed_early_is_tried_again_before_what_never_began(campaign):
    names = [f"n{k}" for k in range(20)]
    campaign.units(**dict.fromkeys(names, 1))
    for name in names:
        script = 'if mkdir failed 2> /dev/null; then rm "$3"; exit 0; fi; '
        # However long its guard takes for the failure, no more begin meanwhile.
        script += "until ls runs/*/journal/attempts/units/*; do sleep 0.02; done > /dev/null 2>&1; sleep 0.3"
        campaign.does(name, script)
    assert campaign() == 0
    executions = campaign.executions()
    (failed,) = [name for name in names if executions.count(name) == 2]
    assert len(executions) - executions[::-1].index(failed) <= 14, executions


@pytest.mark.parametrize("whole_group", [False, True])
def test_killed_and_called_again(campaign, whole_group):
    """With its children alive the unit is adopted; without, it is interrupted and runs again."""
    campaign.units(quick=1, slow=2, more=3)
    campaign.does("slow", "while [ ! -e go ]; do sleep 0.05; done")
    first = campaign.start()
    campaign.running("slow")
    wait_until(campaign.path("quick").exists)
    if whole_group:
        os.killpg(first.pid, signal.SIGKILL)
    else:
        first.kill()
    first.wait()
    second = campaign.start()
    wait_until(lambda: (controller.holder(campaign.run) or {}).get("pid") == second.pid)
    campaign.directory.joinpath("go").touch()
    assert second.wait(240) == 0
    assert contents(campaign, quick=1, slow=2, more=3)
    expected = ["interrupted", "published"] if whole_group else ["published", "adopted"]
    assert campaign.outcomes("slow") == expected
    assert overlapping(history(campaign, "slow")) == []
    assert campaign.executions().count("quick") == 1
    assert campaign() == 0 and "Nothing to be done" in campaign.said


@pytest.mark.slow
def test_the_guard_is_killed_under_a_living_controller(campaign):
    campaign.units(a=1, b=2)
    campaign.does("a", '[ "$RIPRESA_ATTEMPT" -ge 2 ] || { touch begun; sleep 60; }')
    process = campaign.start()
    wait_until((campaign.directory / "begun").exists)
    os.kill(campaign.running("a")["pid"], signal.SIGKILL)
    assert process.wait(240) == 0
    assert contents(campaign, a=1, b=2)
    assert campaign.outcomes("a") == ["interrupted", "published"]


def test_term_drains(campaign):
    campaign.units(**{f"n{k}": k for k in range(20)})
    for k in range(20):
        campaign.does(f"n{k}", "sleep 1")
    first = campaign.start()
    wait_until(lambda: len(campaign.executions()) >= 4)
    first.terminate()
    said = first.communicate(timeout=240)[0]
    assert "Traceback" not in said
    begun = campaign.executions()
    assert len(begun) < 20
    for name in begun:
        assert campaign.outcomes(name) == ["published"], "what runs may finish"
    assert campaign() == 0
    assert sorted(campaign.executions()) == sorted(f"n{k}" for k in range(20)), "nothing runs twice"


@pytest.mark.slow
def test_ctrl_c_is_recorded_as_cancelled(campaign):
    campaign.units(a=1)
    campaign.does("a", "[ -e go ] || { touch begun; sleep 60; }")
    first = campaign.start()
    wait_until((campaign.directory / "begun").exists)
    os.killpg(first.pid, signal.SIGINT)
    said = first.communicate(timeout=240)[0]
    assert "Traceback" not in said
    assert [r["failure_class"] for r in history(campaign, "a")] == ["cancelled"]
    campaign.directory.joinpath("go").touch()
    assert campaign() == 0
    assert contents(campaign, a=1)


@pytest.mark.slow
def test_a_unit_that_gives_up_and_others_that_do_not(campaign):
    campaign.units(bad=1, good=2, invalid=3)
    campaign.does("bad", "echo 'NameError: x'; exit 1")
    campaign.does("invalid", 'rm "$3"; exit 0')
    assert campaign() != 0
    assert contents(campaign, good=2)
    assert [r["decision"] for r in history(campaign, "bad")] == ["quarantine"]
    assert "NameError: x" in campaign.said
    status = json.loads(campaign.ripresa("status --run test --json"))
    assert status["counts"]["QUARANTINED"] == 1 and status["counts"]["COMPLETED"] == 1
    before = len(campaign.executions())
    assert campaign() != 0
    assert campaign.executions()[before:].count("bad") == 0, "a quarantine outlives the controller"
    campaign.does("bad", "true")
    campaign.ripresa("release --run test units/bad.txt")
    assert campaign("runs/test/units/bad.txt") == 0
    assert contents(campaign, good=2, bad=1)


@pytest.mark.slow
def test_partial_output_is_never_accepted(campaign):
    """Not even with --keep-incomplete, by which plain Snakemake takes what a failed job left as done."""
    campaign.units(a=1)
    campaign.does("a", "[ -e go ] || exit 3")
    assert campaign("--keep-incomplete") != 0
    assert not campaign.path("a").exists()
    campaign.directory.joinpath("go").touch()
    campaign.ripresa("release --run test units/a.txt")
    assert campaign("--keep-incomplete") == 0
    assert contents(campaign, a=1)


@pytest.mark.slow
def test_status_and_dry_run_while_a_run_is_on(campaign):
    campaign.units(slow=1, after=2)
    campaign.does("slow", "touch begun; while [ ! -e go ]; do sleep 0.05; done")
    first = campaign.start()
    wait_until((campaign.directory / "begun").exists)
    wait_until(campaign.path("after").exists)
    for _ in range(3):
        status = json.loads(campaign.ripresa("status --run test --json"))
        states = {unit["target"]: unit["state"] for unit in status["units"]}
        assert states["units/slow.txt"] == "RUNNING" and states["units/after.txt"] == "COMPLETED"
    assert leases.held(campaign.run.lease("units/slow.txt"))
    campaign.directory.joinpath("go").touch()
    assert first.wait(240) == 0
    assert campaign.outcomes("slow") == ["published"]


@pytest.mark.slow
def test_guarded_and_plain_rules_together(campaign):
    campaign.units(a=1, b=2)
    with (campaign.directory / "Snakefile").open("a") as snakefile:
        snakefile.write("""
rule plain:
    input: units.targets()
    output: "plain.txt"
    shell: "cat {input} > {output}"
""")
    assert campaign("plain.txt", "all") == 0
    assert (campaign.directory / "plain.txt").read_text() == "begin 1\nend 1\nbegin 2\nend 2\n"


@pytest.mark.slow
def test_a_reboot(campaign):
    """All processes are gone, and their leases name a boot that is over."""
    campaign.units(a=1, b=2)
    campaign.does("a", "sleep 60")
    first = campaign.start()
    owner = campaign.running("a")
    wait_until(campaign.path("b").exists)
    os.killpg(first.pid, signal.SIGKILL)
    os.killpg(owner["group"], signal.SIGKILL)
    first.wait()
    lease = campaign.run.lease("units/a.txt")
    wait_until(lambda: not leases.held(lease))
    records.write_json(lease, {**owner, "boot_id": "an earlier one"})
    records.write_json(campaign.run.controller, {**processes.me(), "boot_id": "an earlier one"})
    campaign.does("a", "true")
    assert campaign() == 0
    assert contents(campaign, a=1, b=2)
    assert campaign.outcomes("a") == ["interrupted", "published"]
    assert campaign.outcomes("b")[0] == "published" and campaign.executions().count("b") == 1


@pytest.mark.slow
def test_killed_again_and_again(campaign):
    values = {f"n{k}": k for k in range(30)}
    campaign.units(**values)
    for k in range(0, 30, 3):
        campaign.does(f"n{k}", "sleep 0.7")
    for k in range(1, 30, 3):
        campaign.does(f"n{k}", '[ "$RIPRESA_ATTEMPT" -ge 2 ] || { echo "Connection timed out"; exit 255; }')
    for n in range(8):
        process = campaign.start()
        time.sleep(0.8 + 0.2 * n)
        if n % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    assert campaign() == 0
    assert contents(campaign, **values)
    for name in values:
        assert campaign.outcomes(name).count("published") == 1
        assert overlapping(history(campaign, name)) == []
