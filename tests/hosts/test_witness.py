"""The witness of executions, and the judge."""

from hosts import witness
from hosts.conftest import wait_until
from hosts.witness import Execution

DETACHED = "setsid /srv/witness {} {} {} >/dev/null 2>&1 </dev/null &"


def test_the_judge_tells_executions_apart():
    logs = {
        "h1": "a 1 start 1.0 7\na 1 alive 1.5 7\nb 1 start 1.6 8\na 1 end 2.0 7\nb 1 alive 1.7 8\n",
        # Booted anew, with the same process id; and the last line was cut short.
        "h2": "a 2 start 2.5 7\na 2 alive 2.6 7\na 2 start 3.0 7\na 2 alive 3.1 7\na 2 en",
    }
    assert witness.executions(logs.items()) == {
        "a": [
            Execution("a", 1, "h1", 1.0, 2.0, True),
            Execution("a", 2, "h2", 2.5, 2.6, False),
            Execution("a", 2, "h2", 3.0, 3.1, False),
        ],
        "b": [Execution("b", 1, "h1", 1.6, 1.7, False)],
    }


def test_the_judge_sees_overlaps_on_any_hosts():
    def overlaps(*logs):
        return witness.overlaps(witness.executions(enumerate_hosts(logs)))

    def enumerate_hosts(logs):
        return [(f"h{number}", text) for number, text in enumerate(logs, start=1)]

    long, short = "a 1 start 1.0 7\na 1 alive 3.0 7\n", "a 2 start 2.0 8\na 2 end 2.5 8\n"
    assert [(one.attempt, two.attempt) for one, two in overlaps(long, short)] == [(1, 2)]
    assert [(one.attempt, two.attempt) for one, two in overlaps(long + short)] == [(1, 2)]
    # Not the next neighbour, and inside another that is longer.
    assert len(overlaps(long, "a 3 start 1.1 9\na 3 end 1.2 9\n", short)) == 2
    assert overlaps(long, short.replace("a 2", "b 2")) == []
    assert overlaps(long, "a 2 start 3.0 8\na 2 end 4.0 8\n") == []


def test_executions_are_witnessed_on_the_hosts(hosts):
    hosts.execute("h1", DETACHED.format("twice", 1, 4) + DETACHED.format("killed", 1, 60))
    hosts.execute("h2", DETACHED.format("twice", 2, 4))
    hosts.execute("h2", "/srv/witness once 1 0")
    wait_until(lambda: [one.whole for one in hosts.witnessed().get("twice", [])] == [True, True])
    wait_until(lambda: any(one.ended - one.began > 0.3 for one in hosts.witnessed().get("killed", [])))
    hosts.power_off("h1")
    seen = hosts.witnessed()
    assert [(one.host, one.attempt, one.whole) for one in seen["killed"]] == [("h1", 1, False)]
    assert seen["killed"][0].ended - seen["killed"][0].began > 0.3
    assert [one.whole for one in seen["once"]] == [True]
    ((earlier, later),) = witness.overlaps(seen)
    assert {earlier.host, later.host} == {"h1", "h2"}
    assert earlier.target == "twice"


def test_a_user_and_root_write_to_the_same_log(hosts):
    hosts.execute(
        "h1",
        "su bench -c '/srv/witness theirs 1 0'; /srv/witness ours 1 0; su bench -c '/srv/witness theirs 2 0'",
    )
    assert {target: len(several) for target, several in hosts.witnessed().items()} == {"theirs": 2, "ours": 1}
