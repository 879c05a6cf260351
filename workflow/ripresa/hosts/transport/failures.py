"""What kept a command from a host, from the words of ssh, sudo and Ansible."""

import re
from typing import NamedTuple

EVIDENCE_CHARACTERS = 300


class Failure(NamedTuple):
    """A failure class, the line that tells it, and whether the command may have begun."""

    failure_class: str
    evidence: str
    sent: bool


class Rule(NamedTuple):
    """A pattern of one line (case ignored), the class it tells, whether the command may have begun before."""

    pattern: str
    failure_class: str
    may_have_begun: bool
    advice: str = ""


RULES: tuple[Rule, ...] = ()


def too_many_sessions(said: str) -> bool:
    return bool(re.search(r"open failed|Session open refused by peer", said))


def classify(said: str, began: bool | None) -> Failure:
    """The failure in what ssh, sudo or Ansible ``said``."""
    return Failure("network", " ".join(said.split())[-EVIDENCE_CHARACTERS:], began is not False)
