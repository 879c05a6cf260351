"""Fixtures that several test files share."""

import json
import os
import shlex
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import hypothesis
import pytest

import ripresa
from ripresa.journal import attempts, clock, leases, records
from ripresa.journal.paths import Run
from ripresa.recovery import policy

# How long an example takes says how busy the machine is. The same code gets the same examples, so that what
# has passed once passes again; `pytest --hypothesis-profile default` draws others.
hypothesis.settings.register_profile("ripresa", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ripresa")

pytest_plugins = ["cluster.fixture", "hosts.fixture"]

GUARD = Path(ripresa.__file__).parent / "recovery" / "__main__.py"


def wait_until(condition, seconds=15.0):
    """The first true value of a condition, asked again and again."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.01)
    return value


class Guarded:
    """One unit of a run directory, executed by calling the guard as a rule's shell text does."""

    def __init__(self, directory, outputs=("out.txt",), names=None):
        self.directory = directory
        self.outputs = list(outputs)
        self.names = names or {}
        self.run = Run(directory / "runs" / "test")
        self.target = self.outputs[0]
        self.path = Path(self.run.path(self.target))
        self.options({})
        self.policy()

    def options(self, options):
        """What the rule file gave to `guard`."""
        records.write_json(self.run.guard("digest"), options)

    def policy(self, **changes):
        """The recovery policy of the run, its waits shrunk to nothing unless told otherwise."""
        rules = {**policy.default(), "time_scale": 0.0, "rules": [], **changes}
        records.write_json(self.run.recovery, rules)

    def start(self, command, *, session="one", scopes=(), resources=(), inputs="", prefix=(), **environment):
        """Start the guard; ``command`` is the shell text, with ``{output}`` for the staged output."""
        for form in ("", *(f".{name}" for name in self.names), *(f"[{n}]" for n in range(len(self.outputs)))):
            command = command.replace(f"{{output{form}}}", f"__RIPRESA_OUTPUT{form}__")
        words = [*prefix, sys.executable, "-IS", str(GUARD), "rule", "digest"]
        for option, values in (("--scope", scopes), ("--resource", resources)):
            words += [word for value in values for word in (option, value)]
        words += [word for n, p in self.names.items() for word in ("--name", f"{n}={self.run.path(p)}")]
        words += ["--", *(self.run.path(output) for output in self.outputs)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        given = {"RUN": self.run.dir, "PYTHON": sys.executable, "SESSION": session, "GRACE_S": "5"}
        guard = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=inherited | {f"RIPRESA_{k}": v for k, v in given.items()} | environment,
            start_new_session=True,
        )
        guard.stdin.write(f"{inputs}\n{command}\n")
        guard.stdin.close()
        guard.stdin = None
        return guard

    def __call__(self, command, **options):
        """Run the guard to its end; returns its exit code. What it said is in ``said``."""
        guard = self.start(command, **options)
        self.said = guard.communicate(timeout=120)[0]
        assert "Traceback" not in self.said, self.said
        return guard.returncode

    @property
    def records(self):
        return attempts.read(self.run, self.target)

    @property
    def last(self):
        return attempts.last(self.run, self.target)

    def outcomes(self):
        return [(record["outcome"], record["decision"]) for record in self.records]

    def log(self, attempt=1):
        return Path(self.run.log(self.target, attempt)).read_text()

    def events(self, kind):
        return [event for event in records.iterate(self.run.events) if event["type"] == kind]

    def owner(self):
        return leases.owner(self.run.lease(self.target))

    def running(self):
        """Wait until the command runs; returns the owner in the lease."""
        return wait_until(lambda: (o := self.owner()) and o.get("group") and o)


@pytest.fixture
def guard(tmp_path):
    """A unit with one output, ``out.txt``."""
    return Guarded(tmp_path)


@pytest.fixture
def guarded(tmp_path):
    """Makes units: ``guarded(outputs=..., names=...)``."""
    return lambda **given: Guarded(tmp_path, **given)


SNAKEFILE = """
import json
from ripresa.dsl import Units, guard, open_run
from ripresa.journal.controller import RunIsHeld
from ripresa.recovery import policy
from snakemake.exceptions import WorkflowError

campaign = open_run("test", main=workflow.is_main_process)
points = json.load(open("units.json"))
units = Units("units/{name}.txt", parameters=points)

rule all:
    input: units.targets()

rule unit:
    output: units.target
    log: units.log
    params: p=units.params
    shell: guard("bash unit.sh {params.p[name]} {params.p[value]} {output}")

def complete():
    dag = workflow.dag
    return (job.output[0] for job in dag.jobs if job.output and (dag.finished(job) or not dag.needrun(job)))

onstart:
    rules = policy.default() | {"rules": [], "time_scale": 0.002}
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    forced = bool(workflow.dag_settings.forcerun or workflow.dag_settings.forceall)
    try:
        campaign.start(jobs, config_sha256="", policy=rules, forced=forced)
    except RunIsHeld as error:
        raise WorkflowError(str(error))

onsuccess:
    campaign.end(complete())

onerror:
    campaign.end(complete())
"""

# It has read what it does before it is seen to be executed, so that a test may change that for the next time.
UNIT = """
does=:
[ ! -e "$1.sh" ] || does=$(<"$1.sh")
echo "$1 $RIPRESA_ATTEMPT" >> executions
echo "begin $2" > "$3"
eval "$does"
echo "end $2" >> "$3"
"""


class Campaign:
    """A small campaign of guarded units in a directory, run by the real snakemake.

    The file ``NAME.sh``, where there is one, is what the unit of that name does.
    """

    CALL = (
        sys.executable, "-m", "snakemake", "--rerun-incomplete", "--cores", "4", "--keep-going", "--nolock",
        "--retries", "100", "--scheduler", "recovery", "--logger", "journal", "--workflow-profile", "none",
    )  # fmt: skip

    def __init__(self, directory):
        self.directory = directory
        self.run = Run(directory / "runs" / "test")
        (directory / "Snakefile").write_text(SNAKEFILE)
        (directory / "unit.sh").write_text(UNIT)

    def units(self, **values):
        """The parameter of each unit."""
        points = [{"name": name, "value": value} for name, value in values.items()]
        (self.directory / "units.json").write_text(json.dumps(points))

    def does(self, name, script):
        (self.directory / f"{name}.sh").write_text(script)

    def start(self, *arguments):
        """Start snakemake in a session of its own."""
        environment = {n: v for n, v in os.environ.items() if not n.startswith("RIPRESA_")}
        return subprocess.Popen(
            [*self.CALL, *arguments],
            cwd=self.directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments):
        """Run snakemake to its end; returns its exit code. What it said is in ``said``."""
        controller = self.start(*arguments)
        self.said = controller.communicate(timeout=120)[0]
        assert "Traceback" not in self.said, self.said
        return controller.returncode

    def ripresa(self, line):
        """Run the command `ripresa`; returns what it printed on standard output."""
        done = subprocess.run(
            [Path(sys.executable).parent / "ripresa", *shlex.split(line)],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def path(self, name):
        return self.directory / "runs" / "test" / "units" / f"{name}.txt"

    def executions(self):
        """Which units were executed, in order of their starts."""
        return [name for name, *_ in self._started()]

    def _started(self):
        file = self.directory / "executions"
        return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []

    def outcomes(self, name):
        return [record["outcome"] for record in attempts.read(self.run, f"units/{name}.txt")]

    def running(self, name):
        """Wait until the command of a unit runs and has read its script; returns the owner in its lease."""
        lease = self.run.lease(f"units/{name}.txt")

        def owner():
            found = leases.owner(lease)
            begun = found and found.get("group") and (name, str(found["attempt"])) in self._started()
            return found if begun else None

        return wait_until(owner, 60)


@pytest.fixture
def campaign(tmp_path):
    """A campaign in a directory of its own."""
    return Campaign(tmp_path)


def overlapping(history):
    """Pairs of attempts of which the later began before the earlier had ended."""
    real = [record for record in history if record["outcome"] not in ("adopted", "released")]
    return [
        (earlier["attempt"], later["attempt"])
        for earlier, later in pairwise(real)
        if clock.seconds(later["started"]) < clock.seconds(earlier["ended"])
    ]
