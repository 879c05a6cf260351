"""Workloads are YAML files: valid or refused in plain words, run as written, read as they say, anywhere."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import wait_until
from ripresa import template
from ripresa.configuration import ConfigurationError, load
from ripresa.configuration import schema as schemas
from ripresa.configuration.definitions import unusable
from ripresa.configuration.reading import read
from ripresa.families.benchmarks import extraction, json_path, registry, running
from ripresa.families.benchmarks.measurement import BenchmarkError, Metric
from ripresa.families.benchmarks.needs import missing
from ripresa.families.benchmarks.plan import plan
from ripresa.families.benchmarks.shell import PLACES, Output, Shell
from ripresa.recovery.classifier import classify

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "workflow" / "ripresa" / "families" / "benchmarks"
BIN = Path(sys.executable).parent
SCRIPT = ROOT / "workflow" / "scripts" / "benchmark_run.py"
# As on a host, where the package comes by this variable and there are no others.
PACKAGE = {"PYTHONPATH": str(ROOT / "workflow")}
SCHEMA = schemas.load(ROOT / "workflow" / "schemas" / "workload.schema.json")
RESULT = json.loads((ROOT / "workflow" / "schemas" / "benchmark_result.schema.json").read_text())

OWN = {
    "description": "counts",
    "parameters": {"count": {"description": "how far", "type": "integer", "minimum": 1}},
    "presets": {"low": {"count": 5}, "medium": {"count": 50}, "high": {"count": 500}},
    "command": "seq {count} | wc -l",
    "metrics": [{"name": "lines", "unit": "1", "direction": "higher", "pattern": r"^(?P<value>\d+)$"}],
}


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """A directory with config/; returns a function that writes its benchmarks and workload files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "workloads").mkdir(parents=True)
    (tmp_path / "config" / "config.yaml").write_text("run_id: x\nfamilies: [benchmarks]\n")
    (tmp_path / "fingerprint.json").write_text('{"digest": "0123456789ab"}')

    def write(workloads, **files):
        (tmp_path / "config" / "benchmarks.yaml").write_text(yaml.safe_dump({"workloads": workloads}))
        for name, content in files.items():
            text = content if isinstance(content, str) else yaml.safe_dump(content)
            (tmp_path / "config" / "workloads" / f"{name}.yaml").write_text(text)

    return write


@pytest.fixture
def free_port():
    """A TCP port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def units_of_campaign():
    """The first repetition of each workload of the configuration."""
    units = plan(load("config")["benchmarks"], "runs/x")["repetitions"]
    return {unit["workload"]: unit for unit in units if unit["repetition"] == 1}


def measured(unit, *options):
    """The result of a unit, by the command of its rule; what it says where there is none."""
    command = [sys.executable, *options, str(SCRIPT), json.dumps(unit), "fingerprint.json", "result.json"]
    done = subprocess.run(
        command, env=os.environ | PACKAGE, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        return done.stderr
    result = json.loads(Path("result.json").read_text())
    jsonschema.validate(result, RESULT)
    return result


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names())
def test_a_packaged_workload(name):
    path = registry.PACKAGED / f"{name}.yaml"
    workload = read(path)
    assert list(unusable(workload, SCHEMA)) == []
    assert workload == registry.load(name, own="nowhere"), "quickly read as strictly read"
    assert all("unit" in reading and "direction" in reading for reading in workload["metrics"])
    command = registry.definition(workload)["command"]
    used = {field for step in command for field in template.fields(step["run"])}
    used |= set(template.fields(workload.get("peer", {}).get("server", "")))
    assert workload["parameters"].keys() <= used, "each parameter has an effect"
    programs = workload["needs"].get("programs", []) + workload["needs"].get("modules", [])
    assert not programs or workload["needs"]["packages"]["debian"]


def test_places_are_those_of_the_schema():
    assert SCHEMA.schema["placeholders"] == list(PLACES)


def changed(**values):
    return {key: value for key, value in {**OWN, **values}.items() if value is not None}


def metric(**values):
    return changed(metrics=[{key: v for key, v in {**OWN["metrics"][0], **values}.items() if v is not None}])


STEPS = [{"name": "a", "run": "true"}, {"name": "b", "run": "true"}]
BROKEN = {
    "not YAML": ("command: [", "line 2, column 1", ["bracket"]),
    "empty": ("", "command", ["is missing", "a command for sh"]),
    "unknown key": (changed(comand="true"), "comand", ["did you mean 'command'?"]),
    "no metrics": (changed(metrics=None), "metrics", ["is missing", "figures"]),
    "no metric": (changed(metrics=[]), "metrics", ["at least 1"]),
    "step without a name": (changed(command=[{"run": "true"}]), "command[0].name", ["is missing"]),
    "wrong direction": (metric(direction="up"), "metrics[0].direction", ["one of higher, lower"]),
    "bad pattern": (metric(pattern="(?P<value>"), "metrics[0].pattern", ["regular expression"]),
    "pattern without value": (metric(pattern="x"), "metrics[0].pattern", ["a group (?P<value>...)"]),
    "bad path": (metric(pattern=None, json="a..b"), "metrics[0].json", ["a path into the JSON"]),
    "path and pattern": (metric(json="a"), "metrics[0].pattern", ["keep one"]),
    "neither": (metric(pattern=None), "metrics[0].pattern", ["is missing", "or json"]),
    "metric without a name": (metric(name=None), "metrics[0].name", ["(?P<name>...)"]),
    "name twice": (changed(metrics=OWN["metrics"] * 2), "metrics[1].name", ["entry [0] too"]),
    "placeholder": (
        changed(command="seq {cuont}"),
        "command",
        ["{cuont} stands for nothing", "did you mean"],
    ),
    "placeholder of a step": (
        changed(command=[{"name": "a", "run": "echo {x}"}]),
        "command[0].run",
        ["{{x}} if the braces are the shell's"],
    ),
    "placeholder in quotes": (changed(command="echo '{count}'"), "command", ["within quotes"]),
    "step not said": (changed(command=STEPS), "metrics[0].step", ["is missing", "a or b"]),
    "unknown step": (metric(step="c") | {"command": STEPS}, "metrics[0].step", ["'c' is no step", "a, b"]),
    "preset missing": (changed(presets={"low": {"count": 1}}), "presets.medium", ["is missing"]),
    "no presets": (changed(presets=None), "presets", ["is missing"]),
    "preset without a value": (
        changed(presets={**OWN["presets"], "high": {}}),
        "presets.high.count",
        ["is missing", "how far"],
    ),
    "preset out of bounds": (
        changed(presets={**OWN["presets"], "low": {"count": 0}}),
        "presets.low.count",
        ["too small"],
    ),
    "preset of nothing": (
        changed(presets={**OWN["presets"], "low": {"count": 1, "size": 2}}),
        "presets.low.size",
        ["use one of count"],
    ),
    "parameter without a type": (
        changed(parameters={"count": {"description": "how far"}}),
        "parameters.count.type",
        ["is missing"],
    ),
    "wrong default": (
        changed(parameters={"count": {"description": "how far", "type": "integer", "default": "x"}}),
        "parameters.count.default",
        ["whole number"],
    ),
    "parameter of a taken name": (
        changed(parameters={**OWN["parameters"], "scratch": {"description": "x", "type": "string"}}),
        "parameters",
        ["other than scratch"],
    ),
    "peer without a server": (changed(peer={"ready": "x"}), "peer.server", ["is missing"]),
}


@pytest.mark.parametrize(("content", "where", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file(campaign, content, where, words):
    campaign({"own": {}}, own=content)
    with pytest.raises(ConfigurationError) as caught:
        load("config")
    problems = caught.value.problems
    assert {problem.file for problem in problems} == {"config/workloads/own.yaml"}
    meant = [problem.message for problem in problems if problem.path == where]
    assert meant, str(caught.value)
    assert all(word in meant[0] for word in words), meant[0]


def test_a_file_of_a_name_that_is_no_workload(campaign):
    campaign({"disk": {}}, **{"-x": OWN})
    with pytest.raises(ConfigurationError, match=r"^config/workloads/-x\.yaml: its file needs a name"):
        load("config")


def test_everything_at_once(campaign):
    """Files, whether asked for or not, and what the configuration says about them."""
    inline = {
        "command": "echo {x} '{threads}'",
        "metrics": [{"name": "a", "unit": "s", "direction": "lower"}],
    }
    campaign(
        {"own": {"parameters": {"count": 0, "cuont": 1}}, "steam": {}, "mine": inline},
        own=OWN,
        other=changed(command=None),
    )
    with pytest.raises(ConfigurationError) as caught:
        load("config")
    assert [(problem.file, problem.path) for problem in caught.value.problems] == [
        ("config/workloads/other.yaml", "command"),
        ("config/benchmarks.yaml", "benchmarks.workloads.steam"),
        ("config/benchmarks.yaml", "benchmarks.workloads.own.parameters.cuont"),
        ("config/benchmarks.yaml", "benchmarks.workloads.own.parameters.count"),
    ]
    campaign({"mine": inline}, other=OWN)
    done = subprocess.run([BIN / "ripresa", "status"], capture_output=True, text=True, check=False)
    at = "config/benchmarks.yaml: benchmarks.workloads.mine"
    assert [line.removeprefix("ripresa: ").split(": ")[:2] for line in done.stderr.splitlines()] == [
        at.replace(".mine", f".mine.{key}").split(": ")
        for key in ("command", "command", "metrics[0].pattern")
    ]
    assert done.returncode == 2


def test_what_stands_in_the_configuration_itself_has_no_parameters(campaign):
    inline = {key: value for key, value in OWN.items() if key != "description"}
    campaign({"mine": inline, "fio": {"command": "true"}})
    with pytest.raises(ConfigurationError) as caught:
        load("config")
    assert sorted(problem.path.rpartition("workloads.")[2] for problem in caught.value.problems) == [
        "fio.command",
        "mine.parameters",
        "mine.presets",
    ]


# --- what the configuration asks for ----------------------------------------------------------------------


def test_parameters_are_the_presets_with_overrides():
    stream = registry.load("stream")
    assert registry.parameters(stream, "low") == {"iterations": 10, "array_mb": None, "threads": None}
    assert registry.parameters(stream, "high", {"threads": 3})["threads"] == 3


def test_a_file_of_the_user_wins(campaign):
    campaign({"fio": {"parameters": {"count": 7}}, "disk": {}}, fio=OWN)
    units = units_of_campaign()
    assert units["fio"]["parameters"] == {"count": 7}
    assert units["fio"]["definition"]["command"] == [{"name": "command", "run": OWN["command"]}]
    assert units["disk"]["definition"] == registry.definition(registry.load("disk"))
    assert measured(units["fio"])["metrics"] == [
        {"name": "lines", "value": 7.0, "unit": "1", "direction": "higher"}
    ]


def test_workloads_of_the_documentation(campaign):
    """The file on the page, and a command in the configuration itself, by the script of the rules."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    file = re.search(r"```yaml\n(description: .*?)```", page, re.DOTALL)[1]
    inline = yaml.safe_load(re.search(r"```yaml\n(workloads:\n  my-app:.*?)```", page, re.DOTALL)[1])
    Path("bench").write_text(
        '#!/bin/sh\necho starting\necho \'{"results": [{"name": "main", "steps_per_s": 5}]}\'\n'
    )
    Path("bench").chmod(0o755)
    inline["workloads"]["my-app"]["command"] = f"{Path.cwd()}/" + inline["workloads"]["my-app"]["command"][2:]
    campaign({"checksum": {}, **inline["workloads"]}, checksum=file)
    units = units_of_campaign()
    result = measured(units["checksum"])
    assert result["details"] == {"bytes": str(16 << 20), "version": result["details"]["version"]}
    assert result["metrics"][0]["value"] > 0
    result = measured(units["my-app"])
    assert result["metrics"] == [{"name": "steps", "value": 5.0, "unit": "1/s", "direction": "higher"}]
    assert result["details"] == {"threads": len(os.sched_getaffinity(0))}


def test_the_next_host_is_the_peer():
    section = {
        "scratch": None,
        "preset": "low",
        "repetitions": 1,
        "warmup": False,
        "order": "grouped",
        "seed": 1,
    }
    section |= {"workloads": {"iperf3": {}, "disk": {}}}
    peers = {
        (unit["workload"], unit["host"]): unit["peer"]
        for unit in plan({**section, "hosts": ["a", "b", "c"]}, "runs/x")["repetitions"]
    }
    assert [peers["iperf3", host] for host in "abc"] == ["b", "c", "a"]
    assert {peers["disk", host] for host in "abc"} == {None}
    assert [unit["peer"] for unit in plan({**section, "hosts": ["a"]}, "runs/x")["repetitions"]] == [
        None,
        None,
    ]


# --- commands ---------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1))
def test_values_reach_the_program_as_they_are(value):
    shell = Shell({"value": value, "several": [value, "b"]}, ".")
    assert shell.run("printf '<%s>' {value} {several}").stdout == f"<{value}><{value}><b>"


def test_what_stands_for_null_and_truth(tmp_path):
    shell = Shell({"none": None, "yes": True, "no": False, "rate": 0.5, "threads": None}, str(tmp_path))
    said = shell.run(
        "printf '<%s>' {none} {yes} {no} {rate} {threads} {peer} {{none}} ${HOME:+x}; pwd"
    ).stdout
    cpus = len(os.sched_getaffinity(0))
    assert said == f"<><1><0><0.5><{cpus}><127.0.0.1><{{none}}><x>{tmp_path}\n"


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ('a {x} "b" {x}', []),
        ("a '{x}' \"c {y}\" {z}", ["x", "y"]),
        (r"a \"{x} 'b'{y}", []),
        ('"$(({x} * 2))" "$(a "{y}" {z})" "{u}"', ["y", "u"]),
        ("it # isn't {x}\n{y} '${{z}}'", []),
    ],
)
def test_names_within_quotes(command, names):
    assert template.quoted(command) == names


def test_a_command_that_fails_says_why(tmp_path, capfd):
    shell = Shell({}, str(tmp_path))
    with pytest.raises(BenchmarkError, match=r"^exit code 3: no such thing$"):
        shell.run("echo first; echo no such thing >&2; echo last; exit 3")
    with pytest.raises(BenchmarkError, match=r'^exit code 1: "error": "refused"$'):
        shell.run('printf \'{"error": "refused"\n}\n\'; false'.replace('{"', '{\n"'))
    with pytest.raises(BenchmarkError, match=r"^ended by SIGKILL: no output$"):
        shell.run("kill -9 $$")
    assert capfd.readouterr().out.startswith("first\nlast\nno such thing\n"), "the log has all of it"


def test_a_server_runs_meanwhile(tmp_path):
    shell = Shell({}, str(tmp_path))
    with shell.serving("sh -c 'echo $$ > pid; echo ready at $$; exec sleep 60'", r"^ready at \d+"):
        pid = (tmp_path / "pid").read_text().strip()
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_whose_port_is_in_use_is_started_again(tmp_path, monkeypatch):
    shell = Shell({}, str(tmp_path))
    (tmp_path / "late").write_text(
        "echo . >>starts\nif [ $(wc -l <starts) = 3 ]; then echo ready; exec sleep 60; fi\nexit 1\n"
    )
    with shell.serving("sh late", "^ready") as process:
        assert process.poll() is None
    monkeypatch.setattr("ripresa.families.benchmarks.shell.LISTENING_S", 0.5)
    with (
        pytest.raises(BenchmarkError, match=r"^its server does not listen: Address already in use$"),
        shell.serving("sh -c 'echo Address already in use; exit 1'", "^ready"),
    ):
        pass


def test_each_step_waits_for_a_server_of_another_host_that_is_not_ready(campaign, tmp_path):
    """By a command that fails in the same way as a client does: twice in each step."""
    step = "echo . >>NAME; if [ $(wc -l <NAME) -lt 3 ]; then echo busy >&2; exit 1; fi; echo 7"
    steps = [{"name": name, "run": step.replace("NAME", name)} for name in ("there", "back")]
    metric = {
        "name": "it",
        "unit": "1",
        "direction": "higher",
        "step": "back",
        "pattern": r"^(?P<value>\d+)$",
    }
    campaign({"mine": {"command": steps, "metrics": [metric], "peer": {"server": "echo on", "ready": "on"}}})
    unit = units_of_campaign()["mine"]
    assert measured({**unit, "peer": "127.0.0.1"})["metrics"][0]["value"] == 7
    assert "there: exit code 1: busy" in measured(unit), (
        "with its own server, which listens, there is no reason"
    )


def iperf3_unit(**parameters):
    """A repetition of iperf3 whose server is on another host, here at 127.0.0.1."""
    about = registry.load("iperf3")
    return {
        "host": "a",
        "workload": "iperf3",
        "repetition": 1,
        "preset": "low",
        "parameters": registry.parameters(about, "low", parameters),
        "definition": registry.definition(about),
        "peer": "127.0.0.1",
        "scratch": None,
    }


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_iperf3_waits_for_the_server_of_the_other_host(campaign, free_port):
    unit = iperf3_unit(port=free_port)
    command = [sys.executable, str(SCRIPT), json.dumps(unit), "fingerprint.json", "result.json"]
    with subprocess.Popen(command, env=os.environ | PACKAGE, stdout=subprocess.PIPE, text=True) as process:
        assert any("Connection refused" in line for line in process.stdout), "it has tried before"
        with subprocess.Popen(
            ["iperf3", "--server", "--port", str(free_port)], stdout=subprocess.DEVNULL
        ) as server:
            process.communicate(timeout=60)
            server.terminate()
    assert process.returncode == 0
    figures = {one["name"]: one["value"] for one in json.loads(Path("result.json").read_text())["metrics"]}
    assert figures["send"] > 0.1 and figures["receive"] > 0.1


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_what_iperf3_measured_of_a_test_that_broke_off_is_no_figure(free_port, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("ripresa.families.benchmarks.running._PATIENCE_S", 0.0)
    serve = ["iperf3", "--server", "--port", str(free_port), "--forceflush"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        assert any("listening" in line for line in server.stdout)

        def end():
            assert any("0.00-1.00" in line for line in server.stdout)
            server.terminate()

        ends = threading.Thread(target=end)
        ends.start()
        with pytest.raises(BenchmarkError, match=r"^send: exit code 1: .*the server has terminated"):
            running.measure(iperf3_unit(port=free_port, seconds=60), str(tmp_path))
        ends.join()


def test_an_ended_measurement_leaves_nothing(campaign, tmp_path):
    sleeping = {"command": "touch data; echo; sleep 60", "metrics": OWN["metrics"]}
    campaign({"mine": sleeping})
    unit = {**units_of_campaign()["mine"], "scratch": str(tmp_path / "scratch")}
    command = [sys.executable, str(SCRIPT), json.dumps(unit), "fingerprint.json", "result.json"]
    with subprocess.Popen(command, start_new_session=True) as process:
        wait_until(lambda: list(tmp_path.glob("scratch/*/data")), 60)
        os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert list((tmp_path / "scratch").iterdir()) == []


# --- what is needed, and where it runs ---------------------------------------------------------------------


def test_what_is_absent_is_named_with_its_package(monkeypatch, tmp_path, campaign):
    needs = {"programs": ["sh", ["7zz", "7z"]], "packages": {"debian": ["a", "b"]}}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing(needs) == "sh is not installed (not on PATH): install the packages a, b"
    (tmp_path / "sh").symlink_to("/bin/sh")
    assert missing(needs) == "7zz or 7z is not installed (not on PATH): install the packages a, b"
    assert missing({"programs": ["x"]}) == "x is not installed (not on PATH)"
    assert missing({"modules": ["json", "no_such"], "packages": {"debian": ["python3-x"]}}) == (
        "the Python module no_such is not installed (No module named 'no_such'): "
        "install the package python3-x"
    )
    for name in ("fio", "stress-ng", "sysbench"):
        expected = f"{name} is not installed (not on PATH): install the package {name}"
        assert missing(registry.load(name)["needs"]) == expected
    campaign({"fio": {}})
    unit = units_of_campaign()["fio"]
    assert measured(unit) == f"error: fio: {expected.replace('sysbench', 'fio')}\n"
    assert [one["skipped"] for one in plan(load("config")["benchmarks"], "runs/x")["series"]] == [
        expected.replace("sysbench", "fio")
    ]
    for line in (measured(unit), f"error: stream: {missing({'modules': ['no_such']})}\n"):
        assert classify(line, exit_code=1).failure_class == "environment"


def on_hosts():
    """The modules that measure on a host, all that they import from the package included."""
    code = (
        "import sys, runpy; sys.argv = ['x']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='x')\n"
        "finally: print(*[getattr(m, '__file__', None) or '' for n, m in list(sys.modules.items())"
        " if n.startswith('ripresa')], sep='\\n')"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=os.environ | PACKAGE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {SCRIPT, *map(Path, filter(None, said.splitlines())), *BENCHMARKS.glob("programs/*.py")}


def test_hosts_need_python_3_9_only():
    files = on_hosts()
    assert {"running.py", "extraction.py", "template.py", "stream.py"} <= {path.name for path in files}
    command = [BIN / "vermin", "-t=3.9-", "--no-tips", "--violations", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_hosts_need_no_other_packages(campaign):
    """Without site-packages a unit measures what the standard library can."""
    campaign({"baseline": {"parameters": {"seconds": 0.05}}, "stream": {}})
    units = units_of_campaign()
    assert measured(units["baseline"], "-S")["primary"] == "cpu_idle"
    assert "the Python module numpy is not installed" in measured(units["stream"], "-S")


# --- figures ----------------------------------------------------------------------------------------------

JSON_PATH = SCHEMA.schema["properties"]["metrics"]["items"]["properties"]["json"]["pattern"]
DOCUMENT = {
    "a": [{"n": "x", "v": 1}, {"n": "y", "v": 2, "on": True, "k": 7}],
    "p": {"99.9": 5, "s t": 6},
    "z": None,
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a[0].v", [1]),
        ("a[-1].v", [2]),
        ("a[*].v", [1, 2]),
        ("a[n=y].v", [2]),
        ("a[on=true].n", ["y"]),
        ("a[k=7][0]", []),
        ('p."99.9"', [5]),
        ("p.s t", [6]),
        ("z", [None]),
        ("a[2].v", []),
        ("p[0]", []),
        ("a.v", []),
        ("b.c", []),
    ],
)
def test_paths_into_json(path, found):
    assert json_path.find(DOCUMENT, path) == found
    assert re.search(JSON_PATH, path)


@pytest.mark.parametrize(
    "path", [".a", "a.", "a..b", "a[", "a[]", "a[x]", "a[=x]", 'a"b"', '""', "a]b", "a[0]b"]
)
def test_what_is_no_path(path):
    with pytest.raises(ValueError, match="is no path"):
        json_path.find(DOCUMENT, path)
    assert not re.search(
        SCHEMA.schema["properties"]["metrics"]["items"]["properties"]["json"]["pattern"], path
    )


def figures(reading, stdout="", stderr=""):
    reading = {"unit": "s", "direction": "lower", **reading}
    return {one.name: one.value for one in extraction.metrics([reading], {"command": Output(stdout, stderr)})}


def test_the_last_value_counts():
    assert figures({"name": "a", "pattern": r"^t=(?P<value>\S+)"}, "t=1\nx t=3\nt=2e3\n") == {"a": 2000.0}
    assert figures(
        {"name": "a", "json": "r[*].v", "scale": 0.5}, 'note {1}\n {"r": [{"v": 1}, {"v": "4"}]}\nend'
    ) == {"a": 2.0}
    assert figures({"name": "a", "pattern": r"(?P<value>\d+) in (?P<per>\d+)"}, "", "8 in 4") == {"a": 2.0}
    assert figures({"pattern": r"(?P<name>\w)=(?P<value>\d)"}, "a=1 b=2") == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("reading", "said", "words"),
    [
        (
            {"name": "a", "pattern": "(?P<value>x)"},
            "y",
            r"a: nothing in its output matches '\(\?P<value>x\)'",
        ),
        ({"name": "a", "pattern": "(?P<value>x)"}, "x", "a: 'x' in its output is no number"),
        ({"name": "a", "json": "b"}, "{", "there is no JSON document in its output"),
        ({"name": "a", "json": "b"}, "{}", "a: there is no b in its output"),
        ({"name": "a", "json": "b"}, '{"b": true}', "a: 'True' in its output is no number"),
        ({"pattern": r"(?P<name>\w)=(?P<value>\d)"}, "a=1 a=2", "a: is there twice in its output"),
    ],
)
def test_figures_that_are_not_there(reading, said, words):
    with pytest.raises(BenchmarkError, match=f"^{words}$"):
        figures(reading, said)


def test_details():
    outputs = {"x": Output('{"d": {"a": [1], "b": null}, "c": "t"}', "v1.2\n"), "y": Output("PASSED", "")}
    readings = [
        {"step": "x", "json": "d"},
        {"name": "c", "step": "x", "json": "c"},
        {"name": "v", "step": "x", "pattern": "v(?P<value>.*)"},
        {"name": "check", "step": "y", "pattern": "(?P<value>PASSED)"},
    ]
    assert extraction.details(readings, outputs) == {
        "a": [1],
        "b": None,
        "c": "t",
        "v": "1.2",
        "check": "PASSED",
    }
    with pytest.raises(BenchmarkError, match=r"^check: nothing"):
        extraction.details(readings, {**outputs, "y": Output("FAILED", "")})


def read_by(workload, **outputs):
    """What a packaged workload reads in what its steps say."""
    told = {name: Output(text, "") for name, text in outputs.items()}
    readings = [one for one in registry.load(workload)["metrics"] if one.get("step", "command") in told]
    return {one.name: one for one in extraction.metrics(readings, told)}


def fio_report():
    """The part of a report of fio 3.33 that is read."""

    def side(rate, iops, percentiles):
        return {"bw_bytes": rate, "iops": iops, "clat_ns": {"percentile": percentiles} if percentiles else {}}

    idle = side(0, 0.0, {})
    tail = {"50.000000": 59136, "95.000000": 103936, "99.000000": 987136, "99.900000": 5341184}
    jobs = [
        {"jobname": "sequential_write", "error": 0, "read": idle, "write": side(699050666, 666.7, tail)},
        {"jobname": "sequential_read", "error": 0, "read": side(493447529, 470.6, tail), "write": idle},
        {"jobname": "random_read", "error": 0, "read": side(42602455, 10400.99, tail), "write": idle},
        {"jobname": "random_write", "error": 0, "read": idle, "write": side(433233727, 105769.95, tail)},
    ]
    return "fio: a notice\n" + json.dumps({"fio version": "fio-3.33", "jobs": jobs})


def test_a_report_of_fio():
    found = read_by("fio", command=fio_report())
    assert found["sequential_write"] == Metric("sequential_write", 699.050666, "MB/s", "higher")
    assert found["sequential_read"].value == pytest.approx(493.447529)
    assert found["random_read"] == Metric("random_read", 10400.99, "IOPS", "higher")
    assert found["random_read_p99.9"] == Metric("random_read_p99.9", 5341.184, "us", "lower")
    assert next(iter(found)) == "random_read" and len(found) == 12


STRESS_NG = {
    "0.15 --metrics": """\
stress-ng: info:  [6720] dispatching hogs: 2 cpu
stress-ng: metrc: [6720] stressor       bogo ops real time  usr time  sys time   bogo ops/s     bogo ops/s CPU
stress-ng: metrc: [6720]                           (secs)    (secs)    (secs)   (real time) (usr+sys time)
stress-ng: metrc: [6720] cpu        1842      1.01      1.09      0.00      1830.53        1685.09 54.32 6512
""",
    "0.15 --metrics-brief": """\
stress-ng: metrc: [6724] cpu                5022      1.00      1.09      0.00      1830.53        4598.35
stress-ng: metrc: [6724] miscellaneous metrics:
stress-ng: metrc: [6724] cpu            224056.39 add matrix ops per sec (geometic mean of 2 instances)
stress-ng: info:  [6724] successful run completed in 1.00s
""",
    "before 0.14": """\
stress-ng: info:  [11] stressor       bogo ops real time  usr time  sys time   bogo ops/s   bogo ops/s
stress-ng: info:  [11] cpu                1842      1.01      1.09      0.00      1830.53      1685.09
""",
}


@pytest.mark.parametrize("text", STRESS_NG.values(), ids=STRESS_NG)
def test_a_table_of_stress_ng(text):
    assert read_by("stress-ng", command=text) == {"cpu": Metric("cpu", 1830.53, "bogo-op/s", "higher")}
    assert read_by("unixbench", integer=text)["integer"].value == 1830.53


SYSBENCH_CPU = """\
CPU speed:
    events per second:  4557.39

Latency (ms):
         min:                                    0.22
         avg:                                    0.44
         max:                                   12.29
         95th percentile:                        0.30
"""


def test_output_of_sysbench():
    found = read_by("sysbench", cpu=SYSBENCH_CPU, memory="102400.00 MiB transferred (6493.97 MiB/sec)\n")
    assert [(one.name, one.value, one.unit) for one in found.values()] == [
        ("cpu", 4557.39, "events/s"),
        ("cpu_average", 440.0, "us"),
        ("cpu_p95", 300.0, "us"),
        ("memory", 6493.97, "MiB/s"),
    ]


def test_output_of_dd():
    said = (
        "direct: 1\n4+0 records in\n4194304 bytes (4.2 MB, 4.0 MiB) copied, 0.002 s, 2.1 GB/s\n"
        "now reading\n4+0 records in\n4194304 bytes (4.2 MB, 4.0 MiB) copied, 1e-03 s, 4.2 GB/s\n"
    )
    found = read_by("dd", command=said)
    assert [(one.name, round(one.value, 3)) for one in found.values()] == [
        ("write", 2097.152),
        ("read", 4194.304),
    ]


# --- documentation ----------------------------------------------------------------------------------------


def keys_of(schema):
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from keys_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from keys_of(part)


def test_every_key_and_parameter_is_documented():
    prose = (ROOT / "config" / "README.md").read_text()
    section = prose.split("\n## workloads\n")[1].split("\n## ")[0]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", section))))
    assert set(keys_of(SCHEMA.schema)) <= named
    table = dict(
        re.findall(r"^\| `([\w-]+)` \| (.*) \|$", prose.split("| workload | parameters |")[1], re.MULTILINE)
    )
    for name in registry.names():
        assert re.findall(r"`(\w+)`", table[name]) == list(registry.load(name)["parameters"])
        assert f"\n**{name}** (" in (ROOT / "docs" / "benchmarks.md").read_text()
