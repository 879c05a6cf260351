"""Notifications: a real command and a real HTTP server hear of real runs; nothing is lost or leaked."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import wait_until
from ripresa import notify
from ripresa.journal import events, processes, records
from ripresa.journal.paths import Run
from ripresa.notify import channels, documents
from ripresa.notify.sending import Sender

ROOT = Path(__file__).parents[1]
SECRET = "T0KEN-of-the-webhook"

SNAKEFILE = f"""
configfile: "config/config.yaml"
include: "{ROOT}/rules/common.smk"

work = Units("work/{{name}}.txt", parameters=[{{"name": name}} for name in config["work"]["names"]])

rule all:
    input: work.targets()

rule make:
    output: work.target
    params: p=work.params
    shell: guard("bash unit.sh {{wildcards.name}} {{output}}", scopes={{"workload": "ssh"}})
"""
UNIT = """
case $1 in
    bad) echo "ModuleNotFoundError: No module named 'numba'"; exit 1 ;;
    odd*) echo "the frobnicator is cross"; exit 3 ;;
    slow) touch begun; while [ ! -e go ]; do sleep 0.05; done ;;
esac
echo $1 > $2
"""


class Ear(ThreadingHTTPServer):
    """Notes the requests it gets; the first ones get the ``answers`` given, later ones 200."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard = []
        self.tries = []
        self.answers = []
        self.delay = 0.0
        self.answering = threading.Event()
        self.answering.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hooks/{SECRET}?key={SECRET}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ear = self.server
        ear.tries.append((time.monotonic(), self.headers["Idempotency-Key"]))
        time.sleep(ear.delay)
        ear.answering.wait(60)
        code = ear.answers.pop(0) if ear.answers else 200
        if code == 200:
            ear.heard.append(body)
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def ear():
    server = Ear()
    yield server
    server.answering.set()
    server.shutdown()
    server.server_close()


class Place:
    """A campaign with notifications, in the layout of a checkout."""

    def __init__(self, directory):
        self.directory = directory
        self.run = Run(directory / "runs/test")
        (directory / "Snakefile").write_text(SNAKEFILE)
        (directory / "unit.sh").write_text(UNIT)
        (directory / "config").mkdir()

    def configure(self, *names, **settings):
        config = {"run_id": "test", "families": ["work"]}
        if settings:
            config["notify"] = settings
        (self.directory / "config/config.yaml").write_text(json.dumps(config))
        (self.directory / "config/work.yaml").write_text(json.dumps({"names": names}))
        (self.directory / "config/recovery.yaml").write_text("time_scale: 0.002\nbreaker: {failures: 2}\n")

    def start(self, *options):
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            "2",
            "--workflow-profile",
            str(ROOT / "profiles/default"),
        ]
        environment = {n: v for n, v in os.environ.items() if not n.startswith("RIPRESA_")}
        return subprocess.Popen(
            [*command, *options],
            cwd=self.directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *options):
        controller = self.start(*options)
        self.said = controller.communicate(timeout=120)[0]
        assert "Traceback" not in self.said, self.said
        return controller.returncode

    def noted(self):
        return [note for note in records.read(self.run.notified) if "id" in note]

    def failed(self):
        return [e for e in records.read(self.run.events) if e["type"] == "notification_failed"]

    def written(self):
        """Everything that the run and Snakemake have written to disk."""
        roots = (self.directory / "runs", self.directory / ".snakemake")
        return b"".join(path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_run_tells_a_command_and_a_webhook_each_once(place, ear):
    command = 'cat > new.$$; mv new.$$ "heard.$RIPRESA_EVENT.$$"'
    place.configure("good", "bad", "odd1", "odd2", command=command, webhook=ear.url)
    assert place() == 1
    wait_until(lambda: any(one["event"] == "finished" for one in ear.heard), 60)
    told = {one["event"]: one for one in ear.heard}
    assert set(told) == {"finished", "quarantined", "breaker_opened"}
    assert all(one["run_id"] == "test" and one["ts"] and one["text"] for one in ear.heard)
    assert len({one["id"] for one in ear.heard}) == len(ear.heard) == len(ear.tries)

    bad = told["quarantined"]
    assert (bad["target"], bad["rule"], bad["failure_class"]) == ("work/bad.txt", "make", "environment")
    assert bad["evidence"] == "ModuleNotFoundError: No module named 'numba'"
    assert bad["to_do"] == f"install the Python module numba on {os.uname().nodename}"
    assert "not tried again" in bad["why"] and Path(bad["log"]).exists()
    assert told["breaker_opened"]["scope"] == "workload:ssh" and told["breaker_opened"]["until"]
    end = told["finished"]
    assert end["status"] == "failed"
    assert end["counts"] == {"COMPLETED": 1, "FAILED": 2, "QUARANTINED": 1}

    files = wait_until(lambda: len(f := list(place.directory.glob("heard.*"))) == len(ear.heard) and f, 60)
    assert sorted(json.loads(f.read_text())["id"] for f in files) == sorted(one["id"] for one in ear.heard)
    assert {f.name.split(".")[1] for f in files} == set(told)
    wait_until(lambda: len(place.noted()) == len(ear.heard), 60)
    assert place.failed() == []
    assert SECRET not in place.said and SECRET.encode() not in place.written()


def test_off_by_default_and_what_happened_while_off_is_not_told(place, ear):
    place.configure("bad")
    assert place() == 1
    assert not os.path.exists(place.run.notified)
    place.configure("bad", "good", webhook=ear.url, events=["quarantined", "finished"])
    assert place() == 1
    wait_until(lambda: ear.heard, 60)
    assert [one["event"] for one in ear.heard] == ["finished"], "not the quarantine of the time before"
    wait_until(place.noted)  # or what takes the notes of this run away comes before they are there
    assert "changed since" not in place.said
    place.configure("bad", "good", "more")
    assert place() == 1
    assert not os.path.exists(place.run.notified)


def test_notifications_are_no_change_of_the_campaign(place, ear):
    place.configure("good")
    assert place() == 0
    place.configure("good", webhook=ear.url)
    (place.directory / "config/config.yaml").write_text(
        json.dumps(
            {"run_id": "test", "families": ["work"], "strict_resume": True, "notify": {"webhook": ear.url}}
        )
    )
    assert place() == 0, place.said
    status = subprocess.run(
        [Path(sys.executable).parent / "ripresa", "status", "--json"],
        cwd=place.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(status.stdout)["config"]["changed"] is False


def test_a_webhook_is_tried_again_and_a_failure_is_one_line(place, ear):
    ear.answers = [503, 500]
    place.configure("good", webhook=ear.url)
    assert place() == 0
    wait_until(lambda: ear.heard, 60)
    assert [one["event"] for one in ear.heard] == ["finished"]
    times, ids = zip(*ear.tries, strict=True)
    assert len(ids) == 3 and len(set(ids)) == 1, "the same event is the same to whoever counts"
    assert times[1] - times[0] >= 0.9 and times[2] - times[1] >= 3.9, "with growing waits"

    ear.answers = [500, 302, 404]
    place.configure("good", "more", webhook=ear.url, command="exit 7")
    assert place() == 0, "a failure to notify is none of the run"
    found = wait_until(lambda: len(f := place.failed()) == 2 and f, 60)
    assert [(one["channel"], one["problem"]) for one in found] == [
        ("command", "the command ended with exit code 7"),
        ("webhook", "127.0.0.1: HTTP 404 (3 tries)"),
    ]
    assert SECRET.encode() not in place.written() and SECRET not in place.said


def test_a_slow_webhook_holds_nothing_up(place, ear):
    place.configure("good", "bad", webhook=ear.url, events=["quarantined"])
    ear.answering.clear()
    assert place() == 1
    assert ear.heard == [], "the run ended while no try had an answer"
    ear.answering.set()
    wait_until(lambda: ear.heard, 60)


def test_over_a_kill_of_the_controller_everything_is_told_once(place, ear):
    """The guard of `slow` outlives the first controller; who comes next tells what is left to tell."""
    place.configure("slow", "bad", webhook=ear.url)
    first = place.start()
    wait_until((place.directory / "begun").exists, 60)
    wait_until(lambda: any(e.get("decision") == "quarantine" for e in records.read(place.run.events)), 60)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (place.directory / "go").touch()
    assert place() == 1
    wait_until(lambda: any(one["event"] == "finished" for one in ear.heard), 60)
    assert [one["event"] for one in ear.heard] == ["quarantined", "finished"]
    assert len({key for _, key in ear.tries}) == len(ear.tries)


# Without Snakemake: the sender and its channels


def sender(run, ear, controller=None):
    told = {"controller": controller or {"host": os.uname().nodename}, "webhook": ear.url}
    return Sender(run, {**told, "events": ["quarantined", "finished", "breaker_opened"]})


def test_killed_between_sending_and_noting_it_is_sent_again_with_the_same_id(tmp_path, ear):
    run = Run(tmp_path / "runs/test")
    records.append(run.notified, {"offset": 0})
    events.emit(run, "breaker_opened", scope="host:n1", until=None, failure_class="hang")
    sender(run, ear).work()
    os.truncate(run.notified, 0)
    sender(run, ear).work()
    assert len(ear.heard) == 2 and ear.heard[0]["id"] == ear.heard[1]["id"]
    sender(run, ear).work()
    assert len(ear.heard) == 2


def test_a_torn_or_replaced_event_file_tells_nothing_twice(tmp_path, ear):
    run = Run(tmp_path / "runs/test")
    records.append(run.notified, {"offset": 0})
    for number in range(3):
        events.emit(run, "breaker_opened", scope=f"host:n{number}", until=None, failure_class="hang")
    whole = Path(run.events).read_bytes()
    Path(run.events).write_bytes(whole[:-20])
    sender(run, ear).work()
    assert [one["scope"] for one in ear.heard] == ["host:n0", "host:n1"], (
        "a line without an end is not whole yet"
    )
    lines = whole.splitlines(keepends=True)
    Path(run.events).write_bytes(b"garbage\n" + lines[0])
    sender(run, ear).work()
    assert len(ear.heard) == 2, "a shorter file is another one, but what was sent is known"
    Path(run.events).write_bytes(b"".join(lines))
    sender(run, ear).work()
    assert [one["scope"] for one in ear.heard] == ["host:n0", "host:n1", "host:n2"]


def test_two_senders_take_turns(tmp_path, ear):
    """The one of a killed controller is still busy when the next one starts."""
    run = Run(tmp_path / "runs/test")
    ear.delay = 0.3
    wanted = {"webhook": ear.url, "events": ["breaker_opened"]}
    sleeper = subprocess.Popen(["sleep", "60"])
    records.append(run.notified, {"offset": 0})
    try:
        told = {
            "controller": {
                **processes.me(),
                "pid": sleeper.pid,
                "pid_started": processes.started(sleeper.pid),
            }
        }
        both = [threading.Thread(target=_in_process, args=(run, {**told, **wanted})) for _ in range(2)]
        for one in both:
            one.start()
        for number in range(4):
            events.emit(run, "breaker_opened", scope=f"host:n{number}", until=None, failure_class="hang")
        wait_until(lambda: len(ear.heard) == 4, 60)
    finally:
        sleeper.kill()
        sleeper.wait()
    for one in both:
        one.join(60)
        assert not one.is_alive(), "a sender ends with its controller"
    assert [one["scope"] for one in ear.heard] == [f"host:n{number}" for number in range(4)]


def _in_process(run, told):
    text = records.encode({"run": run.dir, **told})
    subprocess.run([sys.executable, "-m", "ripresa.notify"], input=text, check=True, timeout=60)


def test_a_run_that_cannot_be_noted_is_no_error(tmp_path, monkeypatch):
    run = Run(tmp_path / "runs/test")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(OSError(12, "no memory")))
    notify.start(run, {"command": "true", "events": ["finished"]})
    (event,) = records.read(run.events)
    assert event["type"] == "notification_failed" and "no memory" in event["problem"]


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    began = time.monotonic()
    pid = tmp_path / "pid"
    command = channels.Command(f"sleep 60 & echo $! > {pid}; wait", seconds=3.0)
    assert (
        command.send({"event": "finished", "id": "1"}) == "the command did not end within 3 s and was killed"
    )
    assert time.monotonic() - began < 40
    wait_until(lambda: processes.started(int(pid.read_text())) is None)


def test_a_webhook_that_is_down_gets_single_tries_until_it_is_back(ear):
    hook = channels.Webhook(ear.url, waits=(0.0, 0.0))
    ear.answers = [500] * 4
    assert hook.send({"id": "1"}) == "127.0.0.1: HTTP 500 (3 tries)"
    assert hook.send({"id": "2"}) == "127.0.0.1: HTTP 500 (1 try)"
    assert hook.send({"id": "3"}) is None
    ear.answers = [500]
    assert hook.send({"id": "4"}) is None, "it gets all its tries again"


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:1/{SECRET}",
        f"http://127.0.0.1:99999/{SECRET}",
        f"http://no-such-host.invalid/{SECRET}",
        f"http://127.0.0.1/{SECRET}\x7f",
        f"http://[{SECRET}/",
    ],
)
def test_no_problem_repeats_the_address(url):
    try:
        hook = channels.Webhook(url, seconds=2.0, waits=())
    except ValueError:
        pytest.fail("an address that makes no sense is a problem of sending")
    problem = hook.send({"id": "1"})
    assert problem and SECRET not in problem and "\n" not in problem


def test_a_webhook_that_never_ends_its_answer_is_given_up(ear):
    ear.delay = 3.0
    assert (
        channels.Webhook(ear.url, seconds=0.5, waits=()).send({"id": "1"}) == "127.0.0.1: timed out (1 try)"
    )


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ({"type": "run_end"}, "finished"),
        ({"type": "unit_end", "decision": "quarantine"}, "quarantined"),
        ({"type": "unit_end", "decision": "retry"}, None),
        ({"type": "unit_end", "decision": "refused"}, None),
        ({"type": "breaker_opened"}, "breaker_opened"),
        ({"type": "breaker_half_open"}, None),
        ({"type": "notification_failed"}, None),
        ({}, None),
    ],
)
def test_which_events_are_sent(event, name):
    assert documents.name_of(event) == name
