"""What kept a command from a host, told from the words of ssh, sudo and Ansible."""

import re
from typing import NamedTuple

EVIDENCE_CHARACTERS = 300


class Failure(NamedTuple):
    """A failure class, one line of evidence, and whether the command may have begun to run."""

    failure_class: str
    evidence: str
    sent: bool


class Rule(NamedTuple):
    """What a line tells: a pattern (case ignored), a class, and whether it rules out that a command began."""

    pattern: str
    failure_class: str
    never_began: bool = True
    advice: str = ""


RULES = (
    # A cause stands before what follows from it; the first rule that any line matches names the failure.
    Rule(
        r"^host key for .* has changed",
        "permission",
        advice="if that is right, remove the old key with ssh-keygen -R and accept the new one",
    ),
    Rule(
        r"host key is known for|^host key verification failed|host key checking is enabled",
        "permission",
        advice="connect once with ssh to accept the key, or add it to the known_hosts file",
    ),
    Rule(r"permissions .* too open", "permission"),
    Rule(
        r"permission denied \(|too many authentication failures|incorrect (?:username/)?password",
        "permission",
    ),
    Rule(r"is not in the sudoers file|is not allowed to (?:run|execute)|must have a tty", "permission"),
    Rule(r"incorrect \w+ password|sorry, try again|a password is required", "permission"),
    Rule(r"account is (?:currently )?not available|sftp connections only", "permission"),
    Rule(r"(?:account|password) (?:has |is )?expired|password change required", "permission"),
    Rule(r"missing \w+ password|duplicate become password prompt", "configuration"),
    Rule(r"plugin '.*' was not found|is undefined|error processing keyword|template error", "configuration"),
    Rule(r"no vault secrets|decryption failed|bad configuration option|unsupported option", "configuration"),
    Rule(r"could not match supplied host pattern|error while resolving value", "configuration"),
    Rule(r"must install the sshpass|unable to execute ssh command", "environment"),
    Rule(r"\bsudo: (?:command )?not found|failed to find the executable", "environment"),
    Rule(r"session open refused by peer|^channel \d+: open failed", "network"),
    Rule(r"could not resolve hostname|name or service not known|in name resolution", "network"),
    Rule(r"^ssh: connect to host ", "network"),
    Rule(r"kex_exchange_identification|banner exchange|^mux_client_", "network"),
    Rule(r"^timeout, server .* not responding", "network", never_began=False),
    Rule(r"waiting for (?:privilege escalation|become success)", "network", never_began=False),
    Rule(
        r"connection (?:to .* )?(?:timed out|refused|reset|closed|lost|aborted)|closed by remote host"
        r"|no route to host|network is unreachable|broken pipe|client_loop",
        "network",
        never_began=False,
    ),
)
NO_WORDS = "the connection ended without a word of ssh"
LOST = "the connection ended while the command ran"

_MANY_SESSIONS = re.compile(r"session open refused by peer|^channel \d+: open failed", re.I | re.M)
# ssh goes on with a connection of its own if the control master fails it. So such a line is no proof that the
# command did not begin, unless that connection has failed, too, and the master was not asked to run it.
_MASTER_FAILED = re.compile(r"^mux_client_", re.M)
_ASKED_TO_RUN = re.compile(r"^mux_client_request_session: (?:read|write)", re.M)
_NO_OTHER_WAY = re.compile(
    r"^ssh: connect to host |closed by UNKNOWN port|banner exchange|^Failed to connect to new control master",
    re.M,
)
_IN_SESSION = re.compile(
    r"^(?:client_loop: .*|timeout, server .*|.*closed by remote host\.?|read from remote host .*)$", re.I
)
_OFFENDING = re.compile(r"^offending .* in (\S+:\d+)", re.I)


def too_many_sessions(said: str) -> bool:
    """Whether the host refused a further session over a connection (MaxSessions of sshd): nothing ran."""
    return bool(_MANY_SESSIONS.search(said))


def classify(said: str, began: bool | None) -> Failure:
    """The failure in what was ``said``: the standard error of ssh or sudo, or an error of Ansible.

    ``began`` is True if the command is known to have begun (what was said is then mostly the command's own),
    False if it is known not to have, and None if its mark has not come back.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if began:
        last = lines[-1] if lines else ""
        return Failure("network", _cut(f"{LOST}: {last}" if _IN_SESSION.match(last) else LOST), True)
    for rule in RULES:
        for line in lines:
            if re.search(rule.pattern, line, re.I):
                evidence = _evidence(line, rule, lines)
                sent = began is None and (not rule.never_began or _may_have_begun(said))
                return Failure(rule.failure_class, evidence, sent)
    if not lines:
        return Failure("network", NO_WORDS, began is None)
    return Failure("unknown", _cut(lines[-1]), began is None)


def _may_have_begun(said: str) -> bool:
    """Whether a control master failed ssh in a way that leaves it open."""
    if not _MASTER_FAILED.search(said):
        return False
    return bool(_ASKED_TO_RUN.search(said)) or not _NO_OTHER_WAY.search(said)


def _evidence(line: str, rule: Rule, lines: list[str]) -> str:
    """The line, and what to do about it."""
    offending = next((found.group(1) for other in lines if (found := _OFFENDING.match(other))), None)
    text = line.removeprefix("Task failed: ")
    if offending and rule.failure_class == "permission":
        text += f" ({offending})"
    return _cut(f"{text}; {rule.advice}" if rule.advice else text)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EVIDENCE_CHARACTERS else f"{text[: EVIDENCE_CHARACTERS - 3]}..."
