"""Which host a unit goes to, and what the link to a host makes of its answers, without any host."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripresa.hosts import parcel as answers
from ripresa.hosts.client import Client, Refused
from ripresa.hosts.fleet import Fleet, Needs, Room, impossible
from ripresa.hosts.link import Link, Notify
from ripresa.hosts.parcel import Parcel
from ripresa.hosts.transport import Host, Reply, Unreachable
from ripresa.hosts.work import Shipper, Work
from ripresa.recovery.dispatch import FAILED, PUBLISHED, Sent

NAMES = ("a", "b", "c")
ROOM = st.builds(
    Room, st.integers(1, 8), st.sampled_from([0.0, 100.0, 400.0]), st.sampled_from([None, 1, 2, 3])
)
NEEDS = st.builds(Needs, st.integers(1, 16), st.sampled_from([0.0, 50.0, 100.0, 300.0]), st.booleans())


def overcommitted(room, there):
    return (
        sum(min(one.cores, room.cores) for one in there) > room.cores
        or sum(one.mem_mb for one in there) > room.mem_mb
        or (room.units is not None and len(there) > room.units)
        or (any(one.exclusive for one in there) and len(there) > 1)
    )


@given(
    st.dictionaries(st.sampled_from(NAMES), ROOM, min_size=1),
    st.lists(st.one_of(NEEDS, st.integers(0, 50)), max_size=60),
)
def test_no_host_is_ever_overcommitted(rooms, happenings):
    """Units come (their needs) and go (the number of one that runs), with a round for each."""
    fleet, running = Fleet(), []
    for number, one in enumerate(happenings):
        fleet.new_round()
        if isinstance(one, int):
            if running:
                fleet.remove(*running.pop(one % len(running)))
            continue
        host = fleet.choose(rooms, one)
        if host is not None:
            fleet.put(host, f"u{number}", one)
            running.append((host, f"u{number}"))
        for name, room in rooms.items():
            assert not overcommitted(room, list(fleet.used(name).values()))


@given(st.dictionaries(st.sampled_from(NAMES), ROOM, min_size=1), NEEDS)
def test_an_empty_fleet_takes_whatever_is_possible(rooms, needs):
    assert (Fleet().choose(rooms, needs) is None) == (impossible(rooms, needs) is not None)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_small_units_that_keep_coming_do_not_hold_off_one_that_needs_all(hosts, cores, lasts, arrive):
    rooms = dict.fromkeys(NAMES[:hosts], Room(cores, 100.0))
    fleet, queue, running = Fleet(), [], {}
    for at in range(100):
        queue += [(f"small{at}.{n}", Needs()) for n in range(arrive)]
        if at == 5:
            queue.insert(0, ("large", Needs(cores, exclusive=True)))
        for target in [target for target, (_, end) in running.items() if end == at]:
            fleet.remove(running.pop(target)[0], target)
        fleet.new_round()
        waiting, queue = queue, []
        for target, needs in waiting:
            host = fleet.choose(rooms, needs)
            if host is None:
                queue.append((target, needs))
                continue
            if target == "large":
                assert at <= 5 + lasts
                return
            fleet.put(host, target, needs)
            running[target] = host, at + lasts
    pytest.fail("it never came to its turn")


def test_a_host_that_a_breaker_closes_is_passed_over():
    rooms = {"a": Room(4, 100.0), "b": Room(2, 100.0)}
    assert Fleet().choose(rooms, Needs()) == "a"
    assert Fleet().choose(rooms, Needs(), lambda host: host != "a") == "b"
    assert Fleet().choose(rooms, Needs(), lambda host: False) is None


# -- parcels


class Task:
    """The controller's books of a unit, as far as a link needs them."""

    def __init__(self, target="unit", digest="new"):
        self.target = target
        self.digest = digest
        self.lost = []
        self.refuses = 0

    def log(self, number):
        return f"{self.target}.log"

    def progress(self, sent, fields):
        pass

    def conclude(self, sent, result, outputs, most):
        return PUBLISHED if result["exit_code"] == 0 else FAILED

    def lose(self, sent, failure_class, evidence, *, give_up=None):
        if self.refuses:
            self.refuses -= 1
            raise OSError(28, "No space left on device")
        self.lost.append((failure_class, evidence, give_up))
        return FAILED


def parcel(target="unit", *, token="mine", digest="new", adopted=False, inputs=()):
    sent = Sent("h", token, 1, "2026-01-01T00:00:00.000Z", digest)
    return Parcel(Task(target), sent, Work("true", list(inputs), [], []), "session", adopted=adopted)


@pytest.mark.parametrize(
    ("result", "step"),
    [
        ({"state": "started"}, answers.FOLLOW),
        ({"state": "held", "token": "mine", "digest": "old"}, answers.FOLLOW),
        ({"state": "ended", "token": "mine", "digest": "new"}, answers.FOLLOW),
        ({"state": "held", "token": "other", "digest": "new"}, answers.FOLLOW),
        ({"state": "held", "token": "other", "digest": "old"}, answers.STOP_OTHER),
        ({"state": "ended", "token": "other", "digest": "new"}, answers.AGAIN),
        ({"state": "missing", "files": ["x"]}, answers.SEND_FILES),
        ({"error": "disk", "evidence": "full"}, answers.FAILED),
    ],
)
def test_what_the_answer_to_a_start_asks_for(result, step):
    assert parcel().understand(result) == step


def test_a_live_attempt_that_the_journal_has_lost_is_followed_by_its_own_name():
    one = parcel()
    one.understand({"state": "held", "token": "other", "digest": "new"})
    assert one.named("cancel")["token"] == "other"


@pytest.mark.parametrize(
    ("result", "step"),
    [
        ({"state": "running"}, answers.FOLLOW),
        ({"state": "ended"}, answers.FOLLOW),
        ({"state": "unknown"}, answers.GONE),
        ({"error": "unknown", "evidence": "?"}, answers.FAILED),
    ],
)
def test_what_runs_another_command_by_now_is_ended_and_never_begun(result, step):
    assert parcel(digest="old", adopted=True).understand(result) == step


# -- the link to a host


class Answers:
    """A host's agent that answers operations from a ``table`` by name; what it was asked is in ``asked``."""

    def __init__(self):
        self.host = Host("h", frozenset(), {}, None)
        self.asked = []
        self.table = {"hello": lambda op: {"cpus": 2, "mem_mb": 100}, "ring": lambda op: {"rung": True}}
        self.states = lambda key, token: {"state": "running"}
        self.down = None
        self.lock = threading.Lock()

    def exchange(self, do, follow=None, *, wait_s=0.0, door=None, payload=b""):
        time.sleep(0.01)
        with self.lock:
            self.asked += [op["op"] for op in do]
        if self.down:
            raise self.down
        done = [self.table.get(op["op"], lambda op: {})(op) for op in do]
        if any(isinstance(one, Exception) for one in done):
            raise next(one for one in done if isinstance(one, Exception))
        return {"done": done, "units": {k: self.states(k, t) for k, t in (follow or {}).items()}}

    def put(self, files):
        with self.lock:
            self.asked += ["put" for _ in files]
        if self.down:
            raise self.down

    def close(self):
        pass


class Settled:
    def __init__(self):
        self.outcomes = {}
        self.said = []

    def notify(self):
        return Notify(
            lambda one, how: self.outcomes.update({one.task.target: how}), lambda: None, self.said.append
        )


@pytest.fixture
def agent():
    return Answers()


@pytest.fixture
def settled():
    return Settled()


@pytest.fixture
def link(agent, settled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Link(agent, Shipper(), settled.notify(), lost_s=3600)
    yield made
    made.close()


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.005)


GONE = Unreachable("network", "reset by peer", sent=True)
REFUSED = Unreachable("network", "connection refused", sent=False)


def test_units_that_began_beside_one_that_could_not_are_not_taken_for_failed(agent, link, settled):
    agent.table["start"] = lambda op: (
        {"state": "started"}
        if op["target"] == "good"
        else {"state": "held", "token": "other", "digest": "old", "attempt": 1, "session": ""}
    )
    agent.table["cancel"] = lambda op: GONE
    good, bad = parcel("good"), parcel("bad")
    with link._state:
        link._queue.append(good)
    link.start(bad)
    until(lambda: agent.asked.count("cancel") >= 2)
    assert not settled.outcomes and not good.task.lost and not bad.task.lost


def test_what_may_have_begun_is_waited_for_and_what_has_not_is_lost(agent, link, settled):
    agent.down = GONE
    one, other = parcel("one"), parcel("other")
    agent.put = lambda files: None
    link.start(one)
    until(lambda: link.down)
    time.sleep(0.05)
    assert not one.task.lost
    agent.down = REFUSED
    link.start(other)
    until(lambda: other.task.lost)
    assert other.task.lost == [("network", "connection refused", None)] and not one.task.lost


@pytest.mark.parametrize(
    ("value", "shared"),
    [(True, True), ("yes", True), (1, True), (False, False), ("false", False), ("no", False), (None, False)],
)
def test_a_host_shares_the_file_system_if_ansible_takes_it_for_true(agent, settled, value, shared):
    agent.host = Host("h", frozenset(), {"ripresa_shared": value}, None)
    made = Link(agent, Shipper(), settled.notify(), lost_s=3600)
    assert made.shared is shared
    made.close()


def test_a_host_is_down_for_what_was_said_last(agent, link):
    agent.down = GONE
    link.open()
    until(lambda: link.down)
    since = link.down.since
    agent.down = Unreachable("permission", "host key has changed", sent=False)
    link.open()
    until(lambda: link.down.failure_class == "permission")
    assert (link.down.evidence, link.down.since) == ("host key has changed", since)


def test_a_host_that_cannot_say_what_it_is_cannot_be_used(agent, link):
    agent.table["hello"] = lambda op: {"error": "file_system", "evidence": "Input/output error: /data"}
    link.open()
    until(lambda: link.down)
    assert link.down.failure_class == "file_system" and "Input/output error: /data" in link.down.evidence


def test_units_of_a_lost_host_end_at_once_and_say_since_when(agent, link, settled):
    agent.down = REFUSED
    link.open()
    until(lambda: link.down)
    link._contact.standing.lost_s = 0.0
    asked = len(agent.asked)
    units = [parcel(f"u{n}") for n in range(20)]
    for one in units:
        link.start(one)
    until(lambda: len(settled.outcomes) == 20)
    assert len(agent.asked) == asked
    (failure_class, evidence, give_up) = units[0].task.lost[0]
    assert (failure_class, evidence) == ("node", give_up)
    assert f"host h has not answered since {link.down.at} (connection refused)" == give_up


def test_a_full_disk_here_delays_the_record_of_a_failure(agent, link, settled, monkeypatch):
    monkeypatch.setattr("ripresa.hosts.settling.LOCAL_S", 0.05)
    agent.down = REFUSED
    one = parcel()
    one.task.refuses = 2
    link.start(one)
    until(lambda: settled.outcomes)
    assert len(one.task.lost) == 1 and sum("No space left" in text for text in settled.said) == 2


def test_what_was_sent_before_is_asked_for_before_its_files_are_sent(agent, link, tmp_path):
    (tmp_path / "input").touch()
    replies = iter([{"state": "missing", "files": []}, {"state": "started"}])
    agent.table["start"] = lambda op: next(replies)
    agent.forgot = lambda files: None
    link.start(parcel(adopted=True, inputs=["input"]))
    until(lambda: link._following.running)
    asked = [op for op in agent.asked if op in ("put", "start")]
    assert asked == ["start", "put", "start"]


@pytest.mark.parametrize(
    ("error", "evidence", "failure_class"),
    [
        (REFUSED, "has not answered since", "node"),
        (Refused("environment", "no Python", whole=True), "could not be used since", "environment"),
    ],
)
def test_what_a_lost_host_had_is_given_up_for_what_is_wrong_there(
    agent, link, settled, error, evidence, failure_class
):
    agent.table["start"] = lambda op: {"state": "started"}
    one = parcel()
    link.start(one)
    until(lambda: link._following.running)
    link._contact.standing.lost_s = 0.0
    agent.down = error
    until(lambda: settled.outcomes)
    assert one.task.lost[0][0] == failure_class and evidence in one.task.lost[0][2]
    assert "whether the command still runs there is not known" in one.task.lost[0][1]


def test_a_live_attempt_that_the_journal_has_lost_is_not_taken_for_gone(agent, link, settled):
    agent.table["start"] = lambda op: {"state": "held", "token": "other", "digest": "new"}
    agent.states = lambda key, token: {"state": "running" if token == "other" else "unknown"}
    one = parcel()
    link.start(one)
    until(lambda: link._following.running)
    time.sleep(0.1)
    assert not settled.outcomes and not one.task.lost


def test_what_may_run_already_is_found_before_it_is_cancelled(agent, link, settled):
    """Given up unseen it would go on there, while the next controller begins with it elsewhere."""
    agent.down = GONE
    agent.table["start"] = lambda op: {"state": "held", "token": "mine", "digest": "new"}
    one, other = parcel("one", adopted=True), parcel("other")
    with link._state:
        link._queue += [one, other]
    link.cancel([one.task, other.task])
    assert other.task.lost and not one.task.lost
    agent.down = None
    link.open()
    until(lambda: "cancel" in agent.asked)
    assert "start" in agent.asked


def test_a_cancellation_is_of_one_attempt_not_of_those_that_follow(agent, link):
    agent.table["start"] = lambda op: {"state": "started"}
    link.cancel([parcel().task])
    link.start(parcel())
    until(lambda: link._following.running)
    time.sleep(0.05)
    assert "cancel" not in agent.asked


def test_a_mistake_of_ours_costs_the_units_that_met_it_and_no_others(agent, link, settled):
    agent.table["start"] = lambda op: {"state": "started"} if op["target"] == "good" else {"odd": 1}
    good, bad = parcel("good"), parcel("bad")
    link.start(bad)
    until(lambda: settled.outcomes)
    why = "host h: internal error: KeyError: 'error'"
    assert bad.task.lost == [("unknown", why, why)]
    link.start(good)
    until(lambda: good.key in link._following.running)


def test_a_mistake_of_ours_does_not_end_the_watch(agent, link, settled, monkeypatch):
    monkeypatch.setattr("ripresa.hosts.following.AGAIN_S", 0.05)
    agent.table["start"] = lambda op: {"state": "started"}
    states = iter([{}, {}])
    agent.states = lambda key, token: next(states, {"state": "ended", "result": ENDED | {"outputs_size": 0}})
    with link._state:
        link._following.running["k" * 24] = one = parcel()
        one.key = "k" * 24
        link._state.notify_all()
    until(lambda: settled.outcomes)
    assert settled.outcomes == {"unit": PUBLISHED} and "internal error: KeyError" in settled.said[0]


ENDED = {"exit_code": 0, "log_size": 0, "outputs_size": 200_000}
FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("error", "failure_class", "evidence"),
    [
        (Refused("file_system", "Input/output error"), "file_system", "host h: Input/output error"),
        (PermissionError(13, "Permission denied"), "file_system", "cannot take in its results here"),
        (KeyError("size"), "unknown", "internal error: KeyError"),
    ],
)
def test_results_that_can_never_be_had_cost_one_attempt(agent, link, settled, error, failure_class, evidence):
    def fetch(*_):
        raise error

    agent.fetch = fetch
    agent.table["start"] = lambda op: {"state": "started"}
    agent.states = lambda key, token: {"state": "ended", "result": ENDED}
    one = parcel()
    link.start(one)
    until(lambda: settled.outcomes)
    assert one.task.lost[0][0] == failure_class and evidence in one.task.lost[0][1]
    assert link.down is None


@pytest.mark.parametrize("error", [FULL, GONE, Refused("environment", "no Python", whole=True)])
def test_results_that_cannot_be_had_now_are_waited_for(agent, link, settled, monkeypatch, error):
    for name in ("LOCAL_S", "AGAIN_S"):
        monkeypatch.setattr(f"ripresa.hosts.following.{name}", 0.05)
    times = iter([error, error, None])

    def fetch(key, token, what, path):
        if what == "outputs" and (now := next(times)):
            raise now
        open(path, "wb").close()

    agent.fetch = fetch
    agent.table["start"] = lambda op: {"state": "started"}
    agent.states = lambda key, token: {"state": "ended", "result": ENDED}
    one = parcel()
    link.start(one)
    until(lambda: settled.outcomes)
    assert settled.outcomes == {"unit": PUBLISHED} and not one.task.lost


# -- the calls of a client


class Wire:
    """A transport to a host of which only the answers matter."""

    def __init__(self):
        self.commands = []
        self.hold = threading.Event()

    def call(self, host, command, data=b"", *, timeout_s):
        self.commands.append(data)
        if b'"list"' in data:
            self.hold.wait(60)
        return Reply(0, 'ripresa-answer\n{"done": [{"removed": true}], "units": {}}', "")


def test_the_last_call_to_a_host_is_the_one_that_cleans_up(tmp_path):
    wire = Wire()
    client = Client(wire, Host("h", frozenset(), {}, None), "run")
    caller = threading.Thread(target=lambda: client.exchange([{"op": "list"}]))
    caller.start()
    until(lambda: wire.commands)
    assert client.clean(0.05) == "an earlier call has no answer yet"
    wire.hold.set()
    assert client.clean(60.0) is None
    caller.join()
    with pytest.raises(Unreachable, match="closed"):
        client.exchange([{"op": "hello"}])
    assert [b"clean" in data for data in wire.commands] == [False, True]


def test_a_host_that_cannot_be_cleaned_up_says_why(tmp_path):
    class Silent(Wire):
        def call(self, host, command, data=b"", *, timeout_s):
            raise REFUSED

    assert Client(Silent(), Host("h", frozenset(), {}, None), "run").clean(60.0) == "connection refused"


def test_a_connection_that_has_just_ended_does_not_keep_a_host_from_being_cleaned_up():
    class Cut(Wire):
        def call(self, host, command, data=b"", *, timeout_s):
            reply = super().call(host, command, data, timeout_s=timeout_s)
            if len(self.commands) == 1:
                raise GONE
            return reply

    assert Client(Cut(), Host("h", frozenset(), {}, None), "run").clean(60.0) is None
