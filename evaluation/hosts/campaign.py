"""A campaign of guarded units on three hosts, which faults strike, and what it left, as the judge needs it.

A unit is a repetition of a workload on a host. What it executes is the witness of the test hosts, which marks
its start, its life and its end in a log on the host's disk, far from anything of the project.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from place import Hosts

ROOT = Path(__file__).resolve().parents[2]
RUN = "runs/faults"
WORKLOADS = ("cpu", "disk", "memory", "net")
EXCLUSIVE = ("cpu", "disk")
"""The workloads whose units are alone on their host; two of the others are there at a time."""
SECRET = "swordfish-7c1e"
"""The value of a variable in the inventory that no file may hold afterwards."""

SNAKEFILE = """
import json
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("faults", main=workflow.is_main_process)
asked = json.load(open("asked.json"))
units = Units("units/{host}/{workload}/{repetition}.txt", parameters=asked["units"])

def where(wildcards):
    return "all" if wildcards.host == "any" else wildcards.host

rule all:
    input: units.targets()

localrules: all

rule repetition:
    input: "data.txt"
    output: units.target
    log: units.log
    params: unit=units.params, seconds=asked["seconds"], version=asked["version"]
    resources:
        host=where,
        exclusive=lambda wildcards: int(wildcards.workload in asked["exclusive"])
    shell:
        guard(
            "bash unit.sh {wildcards.host}/{wildcards.workload}/{wildcards.repetition} {params.seconds} "
            "{params.version} {input} {output}",
            beat=1, wall=asked["wall"],
            scopes={"host": "{wildcards.host}", "workload": "{wildcards.workload}"},
        )

onstart:
    rules = policy.default() | {"rules": [], "time_scale": asked["scale"], "grace_s": 2}
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    forced = bool(workflow.dag_settings.forcerun or workflow.dag_settings.forceall)
    campaign.start(jobs, config_sha256="", policy=rules, forced=forced)

onsuccess:
    campaign.end()

onerror:
    campaign.end()
"""

UNIT = """
set -e
/srv/witness "$1" "$RIPRESA_ATTEMPT" "$2"
echo "unit $1 version $3 of $(cat "$4")" > "$5"
"""


class Unit(NamedTuple):
    """A repetition of a workload on a host, or on ``any``."""

    host: str
    workload: str
    repetition: int

    @property
    def name(self) -> str:
        """As the witness knows it."""
        return "/".join(map(str, self))

    @property
    def target(self) -> str:
        return f"units/{self.name}.txt"


def matrix(repetitions: int, hosts: tuple[str, ...] = Hosts.names) -> list[Unit]:
    """Each workload so often on each host."""
    return [Unit(h, w, r) for h in hosts for w in WORKLOADS for r in range(1, repetitions + 1)]


class Campaign:
    """One campaign: its folder, and the calls of snakemake.

    ``asked`` are the ``seconds`` that a unit takes, the ``scale`` that shrinks all waits of the policy, the
    seconds that a command may take (``wall``; None: any), the ``version`` of the command.
    """

    def __init__(
        self, hosts: Hosts, directory: Path, units: list[Unit], *, become: bool = False, **asked: Any
    ) -> None:
        self.hosts = hosts
        self.directory = directory
        self.units = units
        self.codes: list[int | None] = []
        self.took: list[float] = []
        self.leaked: set[str] = set()
        """Files that were seen to hold a secret while the campaign ran."""
        self.mark = uuid.uuid4().hex
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        self._asked = {
            "units": [one._asdict() for one in units],
            "seconds": 0.5,
            "version": 1,
            "exclusive": EXCLUSIVE,
            "scale": 0.005,
            "wall": None,
            **asked,
        }
        self.ask()
        (directory / "Snakefile").write_text(SNAKEFILE)
        (directory / "unit.sh").write_text(UNIT)
        (directory / "data.txt").write_text("data\n")
        shutil.copytree(ROOT / "profiles" / "ansible", directory / "profile")
        self.inventory = hosts.inventory(directory / "inventory", become)
        text = self.inventory.path.read_text()
        self.inventory.path.write_text(
            text.replace("  vars:\n", f"  vars:\n    database_password: {SECRET}\n", 1)
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def ask(self, **changes: Any) -> None:
        """Ask the next call for something else."""
        self._asked |= changes
        (self.directory / "asked.json").write_text(json.dumps(self._asked))

    # -- calls

    def call(self, *options: str) -> None:
        """Call snakemake, in a session of its own."""
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("RIPRESA_", "ANSIBLE_"))}
        environment |= {"CAMPAIGN_MARK": self.mark, "TMPDIR": str(self.temporary)}
        if self.inventory.vault_password_file:
            environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(self.inventory.vault_password_file)
        words = "--rerun-incomplete --keep-going --nolock --retries 100 --scheduler recovery --logger journal"
        self._began = time.monotonic()
        with (self.directory / "calls.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--profile", "profile", "--cores", "all",
                 "--workflow-profile", "none", "--ansible-inventory", "inventory/inventory.yml",
                 *words.split(), *options],
                cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def end(self, seconds: float = 90.0) -> int | None:
        """Wait for the end of the call; its exit code, None if it takes longer, and is ended then."""
        assert self._process
        try:
            code: int | None = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        self.codes.append(code)
        self.took.append(time.monotonic() - self._began)
        return code

    def __call__(self, *options: str, seconds: float = 90.0) -> int | None:
        """A call, from its start to its end."""
        self.call(*options)
        return self.end(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the controller alone."""
        assert self._process
        self._process.send_signal(number)

    def kill(self, *, everything: bool = False) -> None:
        """Kill the controller, and ``everything`` that it has started."""
        assert self._process
        self._process.kill()
        while everything and (found := self.processes()):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._process.wait()

    def processes(self, words: str = "") -> dict[int, str]:
        """What the calls have started here and runs: process ids and command lines (with these ``words``)."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
                # What runs on the hosts has another environment, and masters of ssh have overwritten theirs.
                known = (folder / "environ").read_bytes() + line.encode()
                if line and words in line and (self.mark in str(known) or str(self.temporary) in str(known)):
                    found[int(folder.name)] = line
        return found

    # -- what is known

    def log(self) -> str:
        """What all calls said."""
        return (self.directory / "calls.log").read_text(errors="replace")

    def records(self, unit: Unit) -> list[dict[str, Any]]:
        """The newest record of each attempt."""
        newest: dict[int, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError):
            path = self.directory / RUN / f"journal/attempts/{unit.target}.jsonl"
            for line in path.read_text().splitlines():
                record = json.loads(line)
                if record["outcome"] != "released":
                    newest[record["attempt"]] = record
        return list(newest.values())

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of the run of one kind."""
        text = (self.directory / RUN / "logs" / "run_events.jsonl").read_text()
        return [event for event in map(json.loads, text.splitlines()) if event["type"] == kind]

    def ripresa(self, *words: str) -> str:
        """What the command `ripresa` prints."""
        done = subprocess.run(
            [Path(sys.executable).parent / "ripresa", *words, "--run", RUN],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    def output(self, unit: Unit) -> Path:
        return self.directory / RUN / unit.target

    def is_right(self, unit: Unit) -> bool:
        """Whether the target is there, byte for byte."""
        path, text = self.output(unit), f"unit {unit.name} version {self._asked['version']} of data\n"
        return path.exists() and path.read_text() == text

    def running(self) -> set[str]:
        """The hosts on which a witness runs now."""
        return {
            host for host in self.hosts.names if any("/srv/witness" in p for p in self.hosts.processes(host))
        }

    def leaks(self) -> list[str]:
        """Files of the run, of what is temporary here and of the agents on hosts that hold a secret."""
        tops = [self.directory / name for name in ("runs", "tmp", ".snakemake", "calls.log")]
        for host in self.hosts.names:
            homes = self.hosts.disk(host) / "homes"
            tops += [home / ".ripresa" for home in (homes / "root", homes / "home" / "bench")]
        secrets = [SECRET.encode(), b"correct horse", b"open sesame"]
        return [
            str(path)
            for top in tops
            for path in _files(top)
            if (data := _read(path)) and any(secret in data for secret in secrets)
        ]


def _files(top: Path) -> Iterator[Path]:
    if top.is_file():
        yield top
    for folder, _, names in os.walk(top):
        yield from (Path(folder, name) for name in names)


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        if path.is_file():
            return path.read_bytes()
    return b""


def wait(what: str, condition: Callable[[], Any], limit_s: float = 60) -> Any:
    """The first true value of a condition. Raises RuntimeError if there is none in time."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not happen within {limit_s:.0f} s")
        time.sleep(0.05)
    return value
