"""The supervisors of docs/supervisor.md as they stand there: the loop, with a stand-in for snakemake."""

import configparser
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import wait_until

PAGE = (Path(__file__).parents[1] / "docs/supervisor.md").read_text()


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture
def supervised(tmp_path):
    """Starts the loop; call N of `snakemake` does what line N of the script says."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "supervise.sh").write_text(block("sh"))

    def start(*calls, status=1, quick="60"):
        tools = {
            "snakemake": 'echo "$@" >> calls; eval "$(sed -n "$(wc -l < calls)p" script)"',
            "ripresa": f'echo "$@" >> asked; exit {status}',
            "sleep": 'echo "$1" >> pauses',  # told, not waited for
        }
        for name, script in tools.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "script").write_text("\n".join(calls) + "\n")
        path = f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            # As in a terminal: a shell cannot trap what was ignored when it started, as in the background.
            ["env", "--default-signal=INT", "sh", "supervise.sh", "--profile", "slurm"],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "RIPRESA_QUICK_S": quick},
            stderr=subprocess.PIPE,
            text=True,
        )

    start.lines = lambda name: (
        (tmp_path / name).read_text().split("\n")[:-1] if (tmp_path / name).exists() else []
    )
    return start


def test_it_calls_again_after_a_kill_and_ends_with_the_campaign(supervised):
    assert supervised("kill -9 $$", "kill -SEGV $$", "exit 137", "exit 0").wait(60) == 0
    assert supervised.lines("calls") == ["--rerun-incomplete --profile slurm"] * 4
    assert supervised.lines("asked") == []


@pytest.mark.parametrize("status", [1, 2])
def test_it_stops_where_a_person_is_needed(supervised, status):
    assert supervised("exit 1", "exit 0", status=status).wait(60) == status
    assert len(supervised.lines("calls")) == 1 and supervised.lines("asked") == ["status"]


def test_it_calls_again_where_nothing_is_stopped(supervised):
    """Stopped from outside, or another controller had the run."""
    assert supervised("exit 1", "exit 0", status=0).wait(60) == 0
    assert len(supervised.lines("calls")) == 2


def test_quick_deaths_wait_longer_and_longer(supervised):
    assert supervised(*["kill -9 $$"] * 12, "exit 0").wait(60) == 0
    assert supervised.lines("pauses") == [str(n) for n in (1, 3, 7, 15, 31, 63, 127, 255, 300, 300, 300, 300)]


def test_a_death_after_a_long_life_is_followed_at_once(supervised):
    assert supervised(*["kill -9 $$"] * 3, "exit 0", quick="0").wait(60) == 0
    assert supervised.lines("pauses") == ["0"] * 3


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_and_waited_for(supervised, sent):
    rest = "mkfifo silent; exec 3<>silent; while :; do read -t 0.05 -u 3; done"
    work = f"trap 'echo drained > drained; exit 1' TERM; touch begun; {rest}"
    loop = supervised(work, "exit 0")
    wait_until(lambda: supervised.lines("begun") == [] and supervised.lines("calls"), 60)
    wait_until(lambda: "begun" in os.listdir(Path(f"/proc/{loop.pid}/cwd")), 60)
    loop.send_signal(sent)
    assert loop.wait(60) == 143
    assert supervised.lines("drained") == ["drained"] and len(supervised.lines("calls")) == 1


def test_the_systemd_unit_restarts_after_kills_only_and_lets_guards_live(tmp_path):
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(block("ini"))
    service = unit["Service"]
    assert service["Restart"] == "on-abnormal", "exit code 1 needs a person"
    assert service["KillMode"] == "process" and service["OOMPolicy"] == "continue"
    assert service["ExecStart"].endswith("snakemake --rerun-incomplete")
    if shutil.which("systemd-analyze"):
        text = block("ini").replace("/srv/campaign/.venv/bin/snakemake", "/bin/true")
        (tmp_path / "campaign.service").write_text(text)
        command = ["systemd-analyze", "verify", tmp_path / "campaign.service"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "campaign.service" not in done.stderr, done.stderr
