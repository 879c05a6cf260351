"""What the transport makes of what it hears: words of ssh and sudo, marks, frames, lines of a terminal."""

import socket
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.hosts.transport import failures, frames, wrapping
from ripresa.hosts.transport.speech import Speech

# Said by OpenSSH 9.2, sudo 1.9.13 and Ansible 2.19.
CHANGED = """@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Add correct host key in /root/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /root/.ssh/known_hosts:7
  remove with:
  ssh-keygen -f "/root/.ssh/known_hosts" -R "[127.0.0.9]:2297"
Host key for [127.0.0.9]:2297 has changed and you have requested strict checking.
Host key verification failed.
"""
PROXY = "Connection closed by UNKNOWN port 65535\n"
SAID = [
    ("ssh: connect to host 127.0.0.9 port 1: Connection refused\n", "network", "Connection refused", False),
    ("ssh: Could not resolve hostname x: Name or service not known\n", "network", "x: Name or", False),
    (
        "Connection timed out during banner exchange\r\nConnection to ::1 port 1 timed out\r\n",
        "network",
        "timed",
        False,
    ),
    ("kex_exchange_identification: read: Connection reset by peer\n", "network", "Connection reset", False),
    ("ssh: connect to host fe80::1 port 22: Network is unreachable\n", "network", "unreachable", False),
    (CHANGED, "permission", "(/root/.ssh/known_hosts:7); if that is right, remove the old key", False),
    (
        "No ED25519 host key is known for x and you have requested strict checking.\n",
        "permission",
        "for x",
        False,
    ),
    ("Host key verification failed.\r\n", "permission", "failed.; connect once with ssh", False),
    (
        "no such identity: /k: No such file\r\na@b: Permission denied (publickey,password).",
        "permission",
        "a@b",
        False,
    ),
    ("Missing sudo password", "configuration", "Missing sudo password", False),
    ("Incorrect sudo password", "permission", "Incorrect sudo password", False),
    ("sudo: a password is required\n", "permission", "a password is required", False),
    ("bob is not in the sudoers file.\n", "permission", "bob is not", False),
    ("This account is currently not available.\n", "permission", "This account", False),
    ("command-line: line 0: Bad configuration option: nonsense\n", "configuration", "nonsense", False),
    ("Task failed: the connection plugin 'x' was not found", "configuration", "the connection plugin", False),
    ("channel 0: open failed: connect failed: open failed\n", "network", "open failed", False),
    # ssh ends without a word if the master or its connection ends while it waits for the command.
    ("", "network", "without a word", True),
    ("client_loop: send disconnect: Broken pipe\n", "network", "Broken pipe", True),
    ("Timeout (12s) waiting for privilege escalation prompt: ", "network", "escalation", True),
    ("something else\n", "unknown", "something else", True),
    # The master fails; ssh has another way or not, and may have asked the master to run the command or not.
    ("mux_client_hello_exchange: write packet: Broken pipe\n", "network", "mux_client", True),
    (f"mux_client_hello_exchange: write packet: Broken pipe\n{PROXY}", "network", "mux_client", False),
    (
        f"mux_client_request_session: read from master failed: Broken pipe\n{PROXY}",
        "network",
        "mux_client",
        True,
    ),
    (
        f"mux_client_request_session: session request failed: Session open refused by peer\n{PROXY}",
        "network",
        "Session open refused",
        False,
    ),
]


@pytest.mark.parametrize(("said", "failure_class", "words", "sent"), SAID)
def test_a_failure_is_named_from_what_was_said(said, failure_class, words, sent):
    failure = failures.classify(said, None)
    assert (failure.failure_class, failure.sent) == (failure_class, sent)
    assert words in failure.evidence and "\n" not in failure.evidence
    assert failures.classify(said, False)[::2] == (failure_class, False)


@pytest.mark.parametrize("said", [said for said, *_ in SAID])
def test_what_a_command_has_said_names_no_failure(said):
    """A command that has begun may call ssh itself."""
    assert failures.classify(said, True)[::2] == ("network", True)


def test_evidence_is_cut():
    assert len(failures.classify("x" * 1000, None).evidence) == failures.EVIDENCE_CHARACTERS


@settings(max_examples=30)
@given(st.binary(max_size=200), st.integers(0, 255))
def test_marks_tell_the_command_s_words_from_the_shell_s(said, code):
    """Through a real shell, with whatever bytes the command writes."""
    mark = wrapping.mark()
    octal = "".join(f"\\{byte:03o}" for byte in said)
    command = wrapping.wrap(f"printf '{octal}' >&2; exit {code}", mark, False)
    shell = subprocess.run(["sh", "-c", f"echo banner >&2; {command}"], capture_output=True, check=True)
    ending = wrapping.ending(mark, shell.stderr.decode("utf-8", "surrogateescape"))
    assert ending == (True, code, said.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("no\n", (False, None, "no\n")),
        ("banner\nMARK\nhalf", (True, None, "half")),
        ("MARK\nMARK 3\nMARK 255\nafter\n", (True, 255, "MARK 3\nafter\n")),
    ],
)
def test_a_command_without_its_last_mark_has_no_exit_code(stderr, expected):
    assert wrapping.ending("MARK", stderr) == expected


def test_frames_arrive_as_they_were_sent():
    near, far = socket.socketpair()
    sent = [({"call": 1, "command": "a\nb\udcff"}, b""), ({}, bytes(range(256)) * 5000)]
    with near, far:
        threading.Thread(
            target=lambda: [near.sendall(frames.encode(*frame)) for frame in sent] and near.close()
        ).start()
        assert [frames.receive(far) for _ in sent] == sent
        assert frames.receive(far) is None


def test_warnings_of_a_narrow_terminal_are_put_together():
    heard = []
    speech = Speech(lambda **line: heard.append(line))
    for line in (
        "[WARNING]: Unable to parse",
        "/a/b as an inventory",
        "",
        "PLAY [x] ***",
        "[ERROR]: bad",
        "luck",
    ):
        speech.hear({"event": "verbose", "stdout": line + "\n"})
    speech.end(1)
    assert heard == [{"warning": "Unable to parse /a/b as an inventory"}]
    assert speech.problem == "bad luck"
