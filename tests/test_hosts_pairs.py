"""Units that take two hosts, and what a call does with units that wait for a host when it is to end."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import wait_until
from machines import ports
from ripresa.families.benchmarks import registry
from ripresa.journal import attempts, records
from ripresa.journal.paths import Run

SNAKEFILE = """
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("test", main=workflow.is_main_process)
units = Units("pairs/{host}/{number}.txt", parameters=[
    {"host": host, "number": number} for host in ("h1", "h2") for number in range(NUMBER)
])

rule all:
    input: units.targets()

rule pair:
    input: "pair.py"
    output: units.target
    log: units.log
    resources:
        host=lambda w: w.host,
        exclusive=1,
        peer=lambda w: {"h1": "h2", "h2": "h1"}[w.host] if PEERS else "",
    shell: guard("python pair.py {output}", scopes={"host": "{wildcards.host}"})

onstart:
    campaign.start(
        ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output),
        config_sha256="",
        policy=policy.default() | {"rules": [], "time_scale": 0.01},
    )

onsuccess:
    campaign.end(job.output[0] for job in workflow.dag.jobs if job.output)

onerror:
    campaign.end()
"""

# The hosts share this machine's network, so the port tells whose server answers.
PAIR = """
import os, socket, sys, time
port = PORT + sum(os.environ["RIPRESA_TARGET"].removesuffix(" (peer)").encode()) % 10
with open("/var/tmp/started", "a") as file:
    print(os.environ["RIPRESA_TARGET"], os.environ.get("RIPRESA_ROLE", "unit"), file=file)
if os.environ.get("RIPRESA_ROLE") == "peer":
    with socket.create_server(("0.0.0.0", port)) as server:
        while True:
            connection = server.accept()[0]
            connection.sendall(os.uname().nodename.encode())
            connection.close()
end = time.monotonic() + 120
while True:
    try:
        with socket.create_connection((os.environ["RIPRESA_PEER"], port), 5) as connection:
            said = connection.recv(100).decode()
        break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
time.sleep(SECONDS)
open(sys.argv[1], "w").write(f"{os.uname().nodename} {said}")
"""


@pytest.fixture
def start(hosts, tmp_path):
    """Starts a campaign of pairs; returns the process."""
    inventory, port = hosts.inventory(tmp_path / "inventory").path, ports.free(10)

    def call(number, seconds, *, peers=True, program=PAIR, snakefile=SNAKEFILE):
        text = snakefile.replace("NUMBER", str(number)).replace("PEERS", str(peers))
        (tmp_path / "Snakefile").write_text(text)
        (tmp_path / "pair.py").write_text(program.replace("SECONDS", str(seconds)).replace("PORT", str(port)))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        words = "--executor ansible --jobs 50 --retries 100 --keep-going --nolock --rerun-incomplete"
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *words.split(), "--ansible-inventory", str(inventory),
             "--scheduler", "recovery", "--logger", "journal", "--workflow-profile", "none"],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    return call


def started(hosts, host):
    return hosts.execute(host, "cat /var/tmp/started 2>/dev/null || true").splitlines()


def test_the_other_host_takes_part_and_is_left_alone_afterwards(hosts, start, tmp_path):
    controller = start(2, 0.2)
    said = controller.communicate(timeout=240)[0]
    assert controller.returncode == 0, said
    for number in range(2):
        assert (tmp_path / f"runs/test/pairs/h1/{number}.txt").read_text() == "h1 h2"
        assert (tmp_path / f"runs/test/pairs/h2/{number}.txt").read_text() == "h2 h1"
    wait_until(lambda: not hosts.processes("h1") + hosts.processes("h2"))
    assert hosts.files("h1") + hosts.files("h2") == []


def test_a_killed_controllers_pair_goes_on_with_both_its_halves(hosts, start, tmp_path):
    controller = start(1, 6)
    wait_until(lambda: len(started(hosts, "h1") + started(hosts, "h2")) == 2, 120)
    controller.kill()
    controller.wait()
    again = start(1, 6)
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    assert (tmp_path / "runs/test/pairs/h1/0.txt").read_text() == "h1 h2"
    assert sorted(started(hosts, "h1") + started(hosts, "h2")) == [
        "pairs/h1/0.txt (peer) peer",
        "pairs/h1/0.txt unit",
        "pairs/h2/0.txt (peer) peer",
        "pairs/h2/0.txt unit",
    ]
    assert [record["attempt"] for record in attempts.read(Run(tmp_path / "runs/test"), "pairs/h1/0.txt")] == [
        1
    ]


def test_a_call_that_is_to_end_begins_with_nothing_that_waits_for_a_host(hosts, start, tmp_path):
    program = "import sys, time; time.sleep(SECONDS); open(sys.argv[1], 'w').write('x')"
    controller = start(20, 8, peers=False, program=program)
    run = Run(tmp_path / "runs/test")
    wait_until(lambda: any(e["type"] == "unit_start" for e in records.iterate(run.events)), 120)
    controller.send_signal(signal.SIGTERM)
    said = controller.communicate(timeout=120)[0]
    published = list((tmp_path / "runs/test/pairs").rglob("*.txt"))
    assert 1 <= len(published) <= 2, said
    assert json.loads((tmp_path / "runs/test/journal/hosts.json").read_text()) == []
    assert "Traceback" not in said


MEASURED = """
    input: "runs/test/result.json"

rule measure:
    input: "benchmark_run.py", "fingerprint.json", "unit.json"
    output: "runs/test/result.json"
    resources: host="h1", exclusive=1, peer="h2"
    params: unit=lambda w: open("unit.json").read()
    shell: guard("python benchmark_run.py {params.unit:q} fingerprint.json {output}")
"""


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_iperf3_measures_between_two_hosts(hosts, start, tmp_path):
    about = registry.load("iperf3")
    parameters = registry.parameters(about, "low", {"port": ports.free(1)})
    unit = {"host": "h1", "workload": "iperf3", "repetition": 1, "preset": "low", "parameters": parameters}
    unit |= {"definition": registry.definition(about), "peer": "h2", "scratch": None}
    (tmp_path / "unit.json").write_text(json.dumps(unit))
    (tmp_path / "fingerprint.json").write_text('{"digest": "none"}')
    script = Path(__file__).parents[1] / "workflow" / "scripts" / "benchmark_run.py"
    shutil.copy(script, tmp_path / "benchmark_run.py")
    head, _, tail = SNAKEFILE.partition("rule all:")
    controller = start(1, 0, snakefile=head + "rule all:" + MEASURED + tail[tail.index("onstart:") :])
    said = controller.communicate(timeout=240)[0]
    assert controller.returncode == 0, said
    result = json.loads((tmp_path / "runs/test/result.json").read_text())
    figures = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert figures["send"] > 0.1 and figures["receive"] > 0.1
    wait_until(lambda: not hosts.processes("h2"))  # its server is gone
