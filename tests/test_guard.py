"""The guard, called as a rule's shell text calls it: what it publishes, refuses, stops, adopts and records."""

import json


def test_success(guard):
    assert guard("echo hello; echo result > {output}", resources=["threads=2"], scopes=["workload=w"]) == 0
    assert guard.path.read_text() == "result\n"
    record = guard.last
    assert (record["outcome"], record["decision"], record["attempt"], record["exit_code"]) == (
        "published", "done", 1, 0,
    )  # fmt: skip
    assert record["resources"] == {"threads": "2"} and "workload:w" in record["scopes"]
    assert guard.log() == "hello\n"
    assert guard.said == ""
    assert [e["outcome"] for e in guard.events("unit_end")] == ["published"]
    assert json.loads(json.dumps(record)) == record
