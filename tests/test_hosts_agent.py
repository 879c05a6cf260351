"""The agent, called as a controller calls it on a host, but without a connection in between."""

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
import zlib
from itertools import count, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import wait_until
from ripresa.hosts import bundle
from ripresa.journal import leases, processes

PYTHON = "/usr/bin/python3"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
LIMITS = {"wall_s": None, "stall_s": None, "stall_source": "default", "grace_s": 5, "beat_s": 5}
STUBBORN = "trap '' TERM; setsid bash -c 'trap \"\" TERM; sleep 600' & sleep 600 & wait"


def key_of(target):
    return hashlib.sha256(target.encode()).hexdigest()[:24]


def opened(data):
    """The bytes behind a text of an answer."""
    return zlib.decompress(base64.b64decode(data))


class Agent:
    """The agent on one host, for one run."""

    def __init__(self, command, root, run):
        self.command = command
        self.root = Path(root)
        self.run = run
        self.user = None
        self.dir = self.root / "runs" / run
        self.tokens = (f"token{number}" for number in count())

    def request(self, *operations, follow=None, wait_s=0.0):
        told = {"run": self.run, "do": list(operations), "follow": follow or {}, "wait_s": wait_s}
        return json.dumps(told).encode() + b"\n"

    def raw(self, data, **options):
        words = ["sh", "-c", self.command]
        options |= {"capture_output": True, "timeout": 60, "user": self.user}
        return subprocess.run(words, input=data, check=False, **options)

    def __call__(self, *operations, follow=None, wait_s=0.0, payload=b"", **options):
        done = self.raw(self.request(*operations, follow=follow, wait_s=wait_s) + payload, **options)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        return json.loads(done.stdout.decode("ascii").rpartition("ripresa-answer\n")[2])

    def do(self, name, **fields):
        """The result of one operation."""
        return self({"op": name, **fields})["done"][0]

    def put(self, data):
        checksum = hashlib.sha256(data).hexdigest()
        put = {"op": "put", "sha256": checksum, "offset": 0, "size": len(data), "total": len(data)}
        assert self(put, payload=data)["done"] == [{"size": len(data)}]
        return checksum

    def operation(self, command, target="a/unit.txt", **changes):
        return {
            "op": "start", "key": key_of(target), "token": next(self.tokens), "target": target, "attempt": 1,
            "session": "session", "digest": "digest", "command": command, "environment": {},
            "directory": None, "inputs": [], "folders": [], "outputs": [], "logs": [], "limits": LIMITS,
            "progress": None, "measure": False,
            **changes,
        }  # fmt: skip

    def start(self, command, target="a/unit.txt", **changes):
        """Start a unit; returns it as it is followed: key and token."""
        operation = self.operation(command, target, **changes)
        assert self(operation)["done"] == [{"state": "started"}]
        return {operation["key"]: operation["token"]}

    def state(self, unit, wait_s=30.0):
        (told,) = self(follow=unit, wait_s=wait_s)["units"].values()
        return told

    def result(self, command, **changes):
        """The state of a unit that is executed to its end."""
        told = self.state(self.start(command, **changes))
        assert told["state"] == "ended"
        return told

    def folder(self, unit):
        return self.dir / "units" / next(iter(unit))

    def owner(self, unit):
        """Who runs a unit, once its command runs."""
        path = str(self.dir / "leases" / f"{next(iter(unit))}.lock")
        return wait_until(lambda: (owner := leases.owner(path)) and owner.get("group") and owner)


def living(text, command=""):
    """Processes of a command with a text in their command line or environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{name}/cmdline").read_bytes()
            told = line + Path(f"/proc/{name}/environ").read_bytes()
            if (
                text.encode() in told
                and line.startswith(command.encode())
                and int(name) != os.getpid()
                and processes.started(int(name))
            ):
                found.append(int(name))
    return found


AT_ONCE_S = 4.0
"""A wait that heard nothing would look 5 s after it began; what it hears it tells within 0.1 s."""


def after(seconds, action):
    """Do something in a while; returns a function that tells how many seconds ago that was."""
    done = []

    def act():
        done.append(time.monotonic())
        action()

    threading.Timer(seconds, act).start()
    return lambda: time.monotonic() - done[0]


def end_supervisor(owner):
    """Kill a supervisor, and wait until it is dead."""
    os.kill(owner["pid"], signal.SIGKILL)
    wait_until(lambda: not processes.alive(owner))


def install(root, user=None):
    data, digest = bundle.build()
    command = bundle.install_command(str(root), digest, PYTHON)
    subprocess.run(["sh", "-c", command], input=data, check=True, timeout=60, user=user)
    return bundle.call_command(str(root), digest)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command of a call, and its root, which stays because there is always one more run."""
    root = tmp_path_factory.mktemp("host") / "root"
    command = install(root)
    (root / "runs" / "another").mkdir(parents=True)
    return command, root


@pytest.fixture
def agent(installed, request, tmp_path):
    """An agent with a run of its own, of which nothing may be left at the end."""
    one = Agent(*installed, run=tmp_path.name)
    yield one
    assert one.do("clean", kill=True) == {"removed": True}
    assert not one.dir.exists()
    wait_until(lambda: living(str(one.dir)) == [])  # a process dies some moments after it let go of all


# A call


def test_hello(agent):
    told = agent.do("hello")
    assert told["host"] == os.uname().nodename and told["boot_id"] == processes.boot_id()
    assert told["root"] == str(agent.root)
    assert 1 <= told["cpus"] <= os.cpu_count() and told["mem_mb"] > 64 and told["free_mb"] > 0
    assert told["uptime_s"] > 0 and told["python"].startswith("3.") and told["user"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense\n",
        b"[]\n",
        b'{"run": "../x", "do": []}\n',
        b'{"run": "x", "do": [{"op": "reboot"}]}\n',
        b'{"run": "x", "do": [{"op": "have", "files": ["../../etc/passwd"]}]}\n',
        b'{"run": "x", "do": [{"op": "forget", "key": "..", "token": "t", "keep": true}]}\n',
        b'{"run": "x", "do": [], "follow": {"k": 1}}\n',
    ],
)
def test_what_is_not_understood_does_nothing(agent, line):
    done = agent.raw(line)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.startswith(b"ripresa agent: ") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ""])
def test_paths_stay_in_the_work_folder(agent, path):
    done = agent.raw(agent.request(agent.operation("true", outputs=[path])))
    assert done.returncode == 2 and b"no path within a work folder" in done.stderr


def test_an_operation_that_fails_does_not_stop_the_others(agent):
    unknown = {"op": "fetch", "key": key_of("x"), "token": "t", "what": "log", "offset": 0, "length": 9}
    first, second = agent(unknown, {"op": "list"})["done"]
    assert first == {"error": "unknown", "evidence": f"no attempt t of {key_of('x')} is there"}
    assert second == {"units": []}


# Files


@settings(max_examples=8)
@given(
    data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=4), again=st.integers(0, 4)
)
def test_a_file_arrives_in_any_pieces(installed, data, cuts, again):
    """Pieces may come twice, or too early: then the answer says from where to go on."""
    agent = Agent(*installed, run="pieces")
    checksum = hashlib.sha256(data).hexdigest()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = list(pairwise(edges)) or [(0, 0)]
    sent = [*pieces[: again + 1], *pieces[again + 1 :][::-1], *pieces]
    puts = [
        {"op": "put", "sha256": checksum, "offset": a, "size": b - a, "total": len(data)} for a, b in sent
    ]
    answer = agent(*puts, {"op": "have", "files": [checksum]}, payload=b"".join(data[a:b] for a, b in sent))
    *sizes, have = answer["done"]
    assert have == {"missing": []} and sizes[-1] == {"size": len(data)}
    assert (agent.dir / "files" / checksum).read_bytes() == data
    assert agent.do("clean", kill=False) == {"removed": True}


def test_a_file_that_arrives_damaged_is_sent_again(agent):
    checksum = hashlib.sha256(b"good").hexdigest()
    put = {"op": "put", "sha256": checksum, "offset": 0, "size": 4, "total": 4}
    bad, have = agent(put, {"op": "have", "files": [checksum]}, payload=b"evil")["done"]
    assert bad["error"] == "network" and "damaged" in bad["evidence"]
    assert have == {"missing": [checksum]}
    assert agent(put, payload=b"good")["done"] == [{"size": 4}]


def test_a_connection_that_ends_within_a_file_costs_the_rest_only(agent):
    checksum = hashlib.sha256(b"0123456789").hexdigest()
    put = {"op": "put", "sha256": checksum, "offset": 0, "size": 10, "total": 10}
    assert agent(put, payload=b"01234")["done"] == [{"size": 5}]
    rest = {**put, "offset": 5, "size": 5}
    assert agent(rest, payload=b"56789")["done"] == [{"size": 10}]


def test_inputs_are_the_unit_s_own(agent):
    checksum = agent.put(b"input\n")
    inputs = [{"path": "in/x.txt", "sha256": checksum, "mode": 0o755}]
    command = "stat -c %a in/x.txt; cat in/x.txt; echo changed > in/x.txt"
    told = agent.result(command, inputs=inputs)
    assert opened(told["log"]) == b"755\ninput\n"
    assert (agent.dir / "files" / checksum).read_bytes() == b"input\n"


def test_missing_inputs_are_named(agent):
    inputs = [{"path": name, "sha256": "0" * 64, "mode": 0o644} for name in "ab"]
    assert agent(agent.operation("true", inputs=inputs))["done"] == [
        {"state": "missing", "files": ["0" * 64]}
    ]
    assert agent.do("list") == {"units": []}


# A unit


def test_outputs_come_back_as_they_are(agent):
    command = (
        "umask; echo 1 > out/a.txt; mkdir -p out/dir/empty; echo 2 > out/dir/x; chmod 750 out/dir/x; "
        "ln -s x out/dir/link; mkfifo out/dir/pipe; echo said"
    )
    umask = os.umask(0o022)
    try:
        told = agent.result(command, folders=["out"], outputs=["out/a.txt", "out/dir", "out/none"])
    finally:
        os.umask(umask)
    result = told["result"]
    assert opened(told["log"]) == b"0022\nsaid\n"
    assert result["exit_code"] == 0 and result["missing"] == ["out/none"] and result["outcome"] == "ended"
    assert result["error"] is None and result["stopped"] is None and not result["disk_full"]
    data = opened(told["outputs"])
    assert result["outputs_size"] == len(data) and result["log_size"] == 10
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: member for member in archive}
        assert sorted(members) == ["out/a.txt", "out/dir", "out/dir/empty", "out/dir/link", "out/dir/x"]
        assert members["out/dir/x"].mode == 0o750 and members["out/a.txt"].mode == 0o644
        assert members["out/dir/link"].linkname == "x"
        assert archive.extractfile("out/dir/x").read() == b"2\n"


def test_a_failure_is_told_and_packs_nothing(agent):
    told = agent.result("echo half > out; echo broken >&2; exit 7", outputs=["out"])
    assert told["result"]["exit_code"] == 7 and told["result"]["outputs_size"] is None
    assert opened(told["log"]) == b"broken\n" and "outputs" not in told


def test_the_environment_of_a_command(agent):
    environment = {"GIVEN": "a secret", "HOME": "/nowhere", "PYTHONPATH": "/mine"}
    limits = {**LIMITS, "beat_s": 600}  # no file comes and goes while all are read
    unit = agent.operation("env -0; printf whole; sleep 600", environment=environment, limits=limits)
    login = {"PATH": "/usr/bin:/bin", "SSH_CLIENT": "1.2.3.4 5 6", "LOGIN": "yes", "HOME": "/home/x"}
    assert agent(unit, env=login)["done"] == [{"state": "started"}]
    agent.owner({unit["key"]: unit["token"]})
    folder = agent.dir / "units" / unit["key"]
    assert (folder / "request.json").stat().st_mode & 0o777 == 0o600
    told = wait_until(lambda: (log := (folder / "log").read_text()).endswith("\0whole") and log)
    known = dict(line.split("=", 1) for line in told.split("\0")[:-1])
    (home,) = (agent.root / "bundles").iterdir()
    assert known["GIVEN"] == "a secret" and known["HOME"] == "/nowhere" and known["LOGIN"] == "yes"
    assert "SSH_CLIENT" not in known
    assert known["PATH"] == f"{home}/bin:/usr/bin:/bin" and known["PYTHONPATH"] == f"{home}:/mine"
    assert known["RIPRESA_TARGET"] == "a/unit.txt" and known["RIPRESA_ATTEMPT"] == "1"
    assert known["RIPRESA_PYTHON"] == f"{home}/bin/python"
    assert Path(known["RIPRESA_SCRATCH"]).is_dir() and Path(known["TMPDIR"]).is_dir()
    (folder / "log").write_text("")
    files = [path for path in agent.dir.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"a secret" in path.read_bytes()]


def test_a_unit_can_import_the_package_and_leaves_no_scratch(agent):
    command = '"$RIPRESA_PYTHON" -c "import ripresa.journal"; echo > $RIPRESA_SCRATCH/x; mktemp; pwd'
    told = agent.result(command)
    log = opened(told["log"]).decode().split()
    folder = agent.dir / "units" / key_of("a/unit.txt")
    assert told["result"]["exit_code"] == 0, log
    assert log[0].startswith(f"{folder}/tmp/") and log[1] == f"{folder}/work"
    assert not (folder / "tmp").exists() and not (folder / "scratch").exists()


def test_a_shared_directory_is_worked_in_and_not_packed(agent, tmp_path):
    told = agent.result("pwd; echo 1 > out", directory=str(tmp_path), outputs=["out", "none"])
    assert opened(told["log"]).decode().strip() == str(tmp_path)
    assert told["result"]["missing"] == ["none"] and told["result"]["outputs_size"] is None
    assert (tmp_path / "out").read_text() == "1\n"
    gone = agent(agent.operation("true", "b", directory=str(tmp_path / "gone")))["done"][0]
    assert gone["error"] == "file_system" and "gone" in gone["evidence"]


def test_progress_and_limits(agent):
    limits = {**LIMITS, "beat_s": 0.05, "stall_s": 2, "stall_source": "declared"}
    told = agent.result("echo 3 10 > $RIPRESA_PROGRESS; sleep 600", progress="counter:", limits=limits)
    result = told["result"]
    assert result["stopped"] == "hang" and "its limit of 2 s is the rule's own" in result["evidence"]
    assert result["progress"] == {"progress": "3", "progress_total": "10"}
    told = agent.result("sleep 600", target="b", limits={**LIMITS, "wall_s": 0.1})
    assert told["result"]["stopped"] == "time_limit" and told["result"]["signal"] == signal.SIGTERM
    assert opened(told["log"]) == b"" and told["result"]["log_size"] == 0


def test_a_running_unit_tells_how_far_it_is(agent):
    unit = agent.start(
        "echo step 4; sleep 600", progress=r"log:step (\d+)", limits={**LIMITS, "beat_s": 0.05}
    )
    wait_until(lambda: agent.state(unit, 0).get("rss_mb"))
    told = agent.state(unit, 0)
    assert told["state"] == "running" and told["since_s"] >= 0 and told["rss_mb"] > 0
    wait_until(lambda: agent.state(unit, 0)["progress"] == {"progress": "4"})


def test_a_command_is_measured(agent):
    code = "import time; b = b'x' * (100 << 20); time.sleep(5)"  # there is a look every second
    command = f'head -c 20m /dev/zero > x; sync x; python3 -c "{code}"'
    told = agent.result(command, measure=True)["result"]["benchmark"]
    assert 4.9 < told["seconds"] < 120 and 0 < told["mean_load"] < 200 and told["cpu_s"] > 0
    assert 100 < told["max_uss_mb"] <= told["max_pss_mb"] <= told["max_rss_mb"] < told["max_vms_mb"]
    assert 20 <= told["io_out_mb"] < 60


# Once and only once


def test_a_start_is_idempotent(agent, tmp_path):
    operation = agent.operation(f"echo once >> executions; until [ -e {tmp_path}/go ]; do sleep 0.02; done")
    known = {name: operation[name] for name in ("token", "attempt", "digest", "session")}
    first, second = agent(operation, operation)["done"]
    assert first == {"state": "started"} and second == {"state": "held", **known}
    (tmp_path / "go").touch()
    unit = {operation["key"]: operation["token"]}
    assert agent.state(unit)["state"] == "ended"
    assert agent(operation)["done"] == [{"state": "ended", **known}]
    other = agent.operation("true", attempt=2)
    assert agent(other)["done"] == [{"state": "ended", **known}]
    assert agent.state({other["key"]: other["token"]}) == {
        "state": "unknown",
        "token": known["token"],
        "attempt": 1,
    }
    assert (agent.folder(unit) / "work/executions").read_text() == "once\n"
    assert agent.do("forget", key=operation["key"], token=other["token"], keep=False) == {"removed": False}
    assert agent.do("forget", key=operation["key"], token=operation["token"], keep=False) == {"removed": True}
    assert agent.state(unit) == {"state": "unknown"}
    assert agent(other)["done"] == [{"state": "started"}]


def test_of_concurrent_starts_one_wins(agent, tmp_path):
    operations = [agent.operation(f"echo x >> {tmp_path}/executions; sleep 600") for _ in range(8)]
    answers = []
    threads = [
        threading.Thread(target=lambda one=one: answers.append(agent(one)["done"][0])) for one in operations
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["state"] for answer in answers) == ["held"] * 7 + ["started"]
    assert len({answer["token"] for answer in answers if "token" in answer}) == 1
    executions = tmp_path / "executions"
    assert wait_until(lambda: executions.exists() and executions.read_text()) == "x\n"


def test_starts_and_lookers_do_not_disturb_each_other(agent):
    """Who looks at a unit has its lease for a moment; that is no attempt."""
    unit = {key_of("a/unit.txt"): "none"}
    over = threading.Event()

    def watch():
        while not over.is_set():
            agent(follow=unit)

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(5):
            started = agent.start("true")
            assert agent.state(started)["result"]["exit_code"] == 0
            agent.do("forget", key=next(iter(started)), token=next(iter(started.values())), keep=False)
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()


def test_a_killed_supervisor_is_noticed_and_its_orphans_end(agent, tmp_path):
    unit = agent.start(
        f"setsid sleep 600 & echo $! > {tmp_path}/pid; sleep 600", limits={**LIMITS, "beat_s": 1}
    )
    owner = agent.owner(unit)
    left = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip()))
    os.kill(owner["pid"], signal.SIGKILL)
    told = agent.state(unit)
    assert told["state"] == "ended" and told["result"]["outcome"] == "interrupted"
    assert told["result"]["exit_code"] is None and "supervisor" in told["result"]["evidence"]
    assert processes.group(owner["group"]) == [] and processes.started(left) is None
    assert agent.state(unit)["result"] == told["result"]


def test_a_start_after_a_killed_supervisor_ends_its_orphans_first(agent):
    unit = agent.start("sleep 600")
    owner = agent.owner(unit)
    end_supervisor(owner)
    again = agent(agent.operation("true", attempt=2))["done"][0]
    assert again["state"] == "ended" and again["token"] == unit[key_of("a/unit.txt")]
    assert processes.group(owner["group"]) == []
    assert [one["state"] for one in agent.do("list")["units"]] == ["ended"]


def test_a_wait_hears_at_once_that_a_supervisor_was_killed(agent):
    unit = agent.start("sleep 600")
    owner = agent.owner(unit)
    heard = after(0.5, lambda: os.kill(owner["pid"], signal.SIGKILL))
    assert agent.state(unit, 600)["result"]["outcome"] == "interrupted"
    assert heard() < AT_ONCE_S


def test_a_reboot_interrupts(agent):
    unit = agent.start("sleep 600")
    owner = agent.owner(unit)
    end_supervisor(owner)
    os.killpg(owner["group"], signal.SIGKILL)
    for path in (agent.folder(unit) / "request.json", agent.dir / "leases" / f"{next(iter(unit))}.lock"):
        path.write_text(path.read_text().replace(processes.boot_id(), "an earlier boot"))
    told = agent.state(unit)["result"]
    assert told["outcome"] == "interrupted" and "restarted" in told["evidence"]
    assert told["attempt"] == 1 and told["started"]


def test_a_start_that_got_nowhere_is_made_again(agent):
    """The call was killed when all was on disk but nothing had run."""
    unit = agent.start("echo x")
    agent.state(unit)
    for name in ("result.json", "status.json"):
        (agent.folder(unit) / name).unlink()
    assert agent.state(unit) == {"state": "unknown"}
    assert agent.result("echo y")["result"]["exit_code"] == 0


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("names", [["request.json"], ["result.json"], ["request.json", "result.json"]])
def test_torn_files(agent, names, share):
    unit = agent.start("true")
    agent.state(unit)
    for name in names:
        path = agent.folder(unit) / name
        os.truncate(path, int(path.stat().st_size * share))
    told = agent.state(unit)
    if names == ["request.json"]:
        assert told["result"]["outcome"] == "ended"
    elif names == ["result.json"]:
        assert told["result"]["outcome"] == "interrupted" and "lost in a crash" in told["result"]["evidence"]
    else:
        assert told == {"state": "unknown"}
        assert agent.do("list") == {"units": []}
        unit = agent.start("true")
        assert agent.state(unit)["result"]["exit_code"] == 0
    key, token = next(iter(unit.items()))
    assert agent.do("forget", key=key, token=token, keep=True) == {"removed": True}


def test_a_torn_request_of_a_running_unit(agent):
    unit = agent.start("sleep 600")
    agent.owner(unit)
    os.truncate(agent.folder(unit) / "request.json", 10)
    assert agent.state(unit, 0)["state"] == "running"
    key, token = next(iter(unit.items()))
    assert agent.do("cancel", key=key, token=token) == {"state": "running"}
    assert agent.state(unit)["result"]["stopped"] == "cancelled"


# The end


def test_cancel_reaches_what_ignores_it(agent, tmp_path):
    unit = agent.start(STUBBORN, limits={**LIMITS, "grace_s": 0.3})
    key, token = next(iter(unit.items()))
    wait_until(lambda: len(living(str(agent.dir), "sleep")) == 2)
    assert agent.do("cancel", key=key, token="another") == {"state": "unknown"}
    assert agent.do("cancel", key=key, token=token) == {"state": "running"}
    result = agent.state(unit)["result"]
    assert result["stopped"] == "cancelled" and result["signal"] == signal.SIGKILL
    assert agent.do("cancel", key=key, token=token) == {"state": "ended"}
    wait_until(lambda: not living(str(agent.dir)))


def test_cancel_twice_kills_at_once(agent):
    unit = agent.start(STUBBORN, limits={**LIMITS, "grace_s": 600})
    key, token = next(iter(unit.items()))
    wait_until(lambda: len(living(str(agent.dir), "sleep")) == 2)
    agent.do("cancel", key=key, token=token)
    assert agent.state(unit, 0.2)["state"] == "running"
    agent.do("cancel", key=key, token=token)
    assert agent.state(unit)["result"]["signal"] == signal.SIGKILL


def test_large_outputs_are_fetched_in_pieces(agent):
    unit = agent.start("head -c 1000000 /dev/urandom > x; head -c 300000 /dev/zero", outputs=["x"])
    told = agent.state(unit)
    assert "outputs" not in told and "log" not in told
    key, token = next(iter(unit.items()))
    whole = b""
    while len(whole) < told["result"]["outputs_size"]:
        piece = agent.do("fetch", key=key, token=token, what="outputs", offset=len(whole), length=400_000)
        assert piece["size"] == told["result"]["outputs_size"]
        whole += opened(piece["data"])
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        made = (agent.folder(unit) / "work/x").read_bytes()
        assert archive.extractfile("x").read() == made
    log = agent.do("fetch", key=key, token=token, what="log", offset=299_990, length=400_000)
    assert opened(log["data"]) == b"\0" * 10 and log["size"] == 300_000


def test_the_newest_failures_are_kept(agent):
    for attempt in range(1, 8):
        # Two large ones do not fit together.
        size = "150M" if attempt >= 6 else "1k"
        told = agent.result(f"fallocate -l {size} x; chmod 0 .; exit 1", attempt=attempt)
        key, token = key_of("a/unit.txt"), told["result"]["token"]
        assert agent.do("forget", key=key, token=token, keep=True) == {"removed": True}
        kept = sorted(path.name for path in (agent.dir / "failed").iterdir())
        first = max(1, attempt - 4) if attempt < 7 else 7
        assert kept == [f"{key}.a{number}" for number in range(first, attempt + 1)]
    assert sorted(path.name for path in (agent.dir / "failed" / kept[0]).iterdir()) == ["log", "work"]
    assert not any((agent.dir / "units").iterdir())


def test_a_waiting_call_ends_with_its_connection(agent):
    unit = agent.start("sleep 600")
    call = subprocess.Popen(
        ["sh", "-c", agent.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    call.stdin.write(agent.request(follow=unit, wait_s=600))
    call.stdin.close()
    time.sleep(0.5)
    assert call.poll() is None
    call.stdout.close()
    call.wait(60)
    assert call.stderr.read() == b""
    call.stderr.close()


def test_a_wait_returns_when_one_of_several_ends(agent, tmp_path):
    command = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"
    units = agent.start("sleep 600") | agent.start(command, "b")
    heard = after(0.5, (tmp_path / "go").touch)
    states = agent(follow=units, wait_s=30)["units"]
    assert [one["state"] for one in states.values()] == ["running", "ended"]
    assert heard() < AT_ONCE_S
    states = agent(follow={key_of("a/unit.txt"): units[key_of("a/unit.txt")]}, wait_s=0.3)["units"]
    assert [one["state"] for one in states.values()] == ["running"]


def test_the_supervisor_outlives_the_session_that_started_it(agent):
    operation = agent.operation("sleep 0.5; echo done")
    call = subprocess.Popen(
        ["setsid", "sh", "-c", agent.command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    call.communicate(agent.request(operation), timeout=60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(call.pid, signal.SIGHUP)
        os.killpg(call.pid, signal.SIGKILL)
    told = agent.state({operation["key"]: operation["token"]})
    assert opened(told["log"]) == b"done\n"


def test_clean_leaves_nothing(tmp_path):
    agent = Agent(install(tmp_path / "root"), tmp_path / "root", "only")
    agent.put(b"input")
    ended = agent.start("true", "b")
    agent.state(ended)
    units = [agent.start(STUBBORN, target) for target in "cd"]
    wait_until(lambda: len(living(str(agent.dir), "sleep")) == 4)
    # Of one, the supervisor is gone already.
    end_supervisor(agent.owner(units[0]))
    refused = agent.do("clean", kill=False)
    assert refused == {"error": "unknown", "evidence": "1 units still run"}
    assert agent.do("clean", kill=True) == {"removed": True}
    assert not (tmp_path / "root").exists()
    wait_until(lambda: living(str(tmp_path)) == [])


def test_a_part_of_a_run_is_ended_and_the_last_takes_the_rest_along(tmp_path):
    agent = Agent(install(tmp_path / "root"), tmp_path / "root", "only")
    other = agent.start("true", "jobs/1.json")
    agent.state(other)
    agent.state(agent.start("true", "benchmarks/h1/rep1.json"))
    agent.start(STUBBORN, "benchmarks/h1/rep2.json")
    wait_until(lambda: len(living(str(agent.dir), "sleep")) == 2)
    assert agent.do("end", targets="benchmarks/h1/") == {
        "ended": ["benchmarks/h1/rep2.json"],
        "left": 1,
        "removed": False,
    }
    assert [unit["target"] for unit in agent.do("list")["units"]] == ["jobs/1.json"]
    wait_until(lambda: living(str(tmp_path)) == [])
    assert agent.do("end", targets="jobs/") == {"ended": [], "left": 0, "removed": True}
    assert not (tmp_path / "root").exists()


# A full disk


@pytest.fixture
def small(installed, tmp_path):
    """An agent whose root is a file system of 4 MB."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", root], check=True)
    command = installed[0].replace('"$root"\nfi', f"{root}\nfi")
    agent = Agent(command, root, "run")
    yield agent
    agent.do("clean", kill=True)
    subprocess.run(["umount", "--lazy", root], check=True)  # what was ended may take a moment to die


@ROOT
def test_a_log_that_fills_the_disk(small):
    told = small.result("head -c 10m /dev/zero")
    assert told["result"]["exit_code"] == 1 and told["result"]["disk_full"]
    assert told["result"]["outcome"] == "ended"
    refused = small(small.operation("true", "b"))["done"][0]
    assert refused["error"] == "disk"
    assert [one["target"] for one in small.do("list")["units"]] == ["a/unit.txt"]
    put = {"op": "put", "sha256": "0" * 64, "offset": 0, "size": 1 << 20, "total": 1 << 20}
    assert small(put, {"op": "list"}, payload=bytes(1 << 20))["done"][0]["error"] == "disk"


@ROOT
def test_outputs_that_cannot_be_packed(small):
    told = small.result("head -c 2500k /dev/zero > x", outputs=["x"])
    result = told["result"]
    assert result["exit_code"] == 0 and result["outputs_size"] is None and "outputs" not in told
    assert result["error"] == "disk" and result["disk_full"] and "No space left" in result["evidence"]


# What it runs on


@ROOT
def test_a_user_without_privileges(tmp_path):
    """What a command leaves without permissions is kept and removed like everything else."""
    root = Path(tempfile.mkdtemp(prefix="ripresa-"))
    try:
        shutil.chown(root, "nobody")
        agent = Agent(install(root / "agent", user="nobody"), root / "agent", "run")
        agent.user = "nobody"
        assert agent.do("hello")["user"] == "nobody"
        told = agent.result("mkdir -p d/e; echo > d/e/x; chmod 0 d/e d .; echo secret > out; exit 1")
        key, token = key_of("a/unit.txt"), told["result"]["token"]
        assert agent.do("forget", key=key, token=token, keep=True) == {"removed": True}
        assert (agent.dir / "failed" / f"{key}.a1/work/d/e/x").exists()
        told = agent.result("mkdir d; echo > d/x; chmod 0 d", outputs=["d"])["result"]
        assert told["error"] == "permission" and told["outputs_size"] is None
        assert agent.do("clean", kill=False) == {"removed": True}
        assert not agent.root.exists()
    finally:
        shutil.rmtree(root)


@ROOT
def test_an_operation_that_is_not_permitted(installed, tmp_path):
    root = Path(tempfile.mkdtemp(prefix="ripresa-"))
    try:
        root.chmod(0o755)
        agent = Agent(install(root / "agent"), root / "agent", "run")
        for path in [agent.root, *agent.root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755)
        agent.user = "nobody"
        refused = agent(agent.operation("true"))["done"][0]
        assert refused["error"] == "permission" and "Permission denied" in refused["evidence"]
    finally:
        shutil.rmtree(root)


def test_a_host_without_bash(installed, tmp_path):
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare")
    agent = Agent(*installed, run=tmp_path.name)
    # A root with everything but bash: what hides a file is a file, so its folder is replaced.
    (tmp_path / "bin").mkdir()
    for path in Path("/usr/bin").iterdir():
        if path.name != "bash":
            (tmp_path / "bin" / path.name).symlink_to(f"{tmp_path}/usr/{path.name}")
    (tmp_path / "usr").mkdir()
    hide = f"mount --bind /usr/bin {tmp_path}/usr; mount --bind {tmp_path}/bin /usr/bin"
    operation = agent.operation("true")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{hide}; {agent.command}"],
        input=agent.request(operation, follow={operation["key"]: operation["token"]}, wait_s=20),
        capture_output=True,
        check=False,
    )
    told = json.loads(done.stdout.rpartition(b"ripresa-answer\n")[2])["units"][operation["key"]]
    assert told["result"]["exit_code"] == 126 and told["result"]["error"] == "environment"
    assert told["result"]["evidence"] == "this host has no /bin/bash; install it"
    assert agent.do("clean", kill=True) == {"removed": True}


def test_everything_that_runs_on_a_host_runs_on_python_3_9(agent):
    """As vermin sees it. Unions in annotations are newer only where they are evaluated."""
    operation = agent.operation("true > x", outputs=["x"], measure=True)
    everything = agent.request(
        {"op": "hello"},
        {"op": "have", "files": []},
        operation,
        {"op": "list"},
        {"op": "cancel", "key": key_of("x"), "token": "t"},
        {"op": "end", "targets": "nothing/"},
        {"op": "clean", "kill": True},
        follow={operation["key"]: operation["token"]},
        wait_s=1,
    )
    command = agent.command.replace(" -IS ", " -X importtime -IS ")
    done = subprocess.run(["sh", "-c", command], input=everything, capture_output=True, check=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    modules = sorted(name for name in names if name.partition(".")[0] == "ripresa")
    assert "ripresa.recovery.execution" in modules and "ripresa.hosts.agent.packing" in modules
    assert not {"asyncio", "inspect", "logging", "subprocess", "tempfile", "typing", "ssl"} & names
    workflow = Path(bundle.__file__).parents[2]
    files = [workflow / name.replace(".", "/") for name in modules]
    files = [path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in files]
    files.append(workflow / "ripresa/hosts/agent/__main__.py")
    evaluated = [path for path in files if "from __future__ import annotations\n" not in path.read_text()]
    for options, paths in (([], files), (["--eval-annotations"], evaluated)):
        check = ["vermin", "-t=3.9-", "--no-tips", "--violations", *options, *map(str, paths)]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
