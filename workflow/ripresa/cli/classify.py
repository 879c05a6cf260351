"""`ripresa classify`: which failure a log shows, and whether to try again."""

import argparse
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Refusal
from ripresa.journal.text import printable


def answer(arguments: argparse.Namespace) -> Answer:
    """Uses the rules of the run named by --run, else those configured here, else the packaged ones only."""
    from ripresa.recovery.classifier import classify

    number = None if arguments.signal is None else _signal(arguments.signal)
    facts = {"exit_code": arguments.exit, "signal": number, "slurm_state": arguments.state}
    text = _log(arguments.file, needed=all(fact is None for fact in facts.values()))
    try:
        verdict = classify(text, **facts, extra_rules=_rules(arguments))
    except (ValueError, TypeError, AttributeError) as error:
        raise Refusal(f"the classifier rules of run '{arguments.run}' cannot be used: {error}") from None
    document = {
        "class": verdict.failure_class,
        "retry": verdict.retry,
        "evidence": verdict.evidence,
        "rule": verdict.rule,
    }
    return Answer(document, lambda: _text(document))


def _rules(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    if arguments.run is not None:
        from ripresa.recovery import policy

        return policy.load(runs.chosen(arguments)).get("rules") or []
    if not os.path.isdir(runs.CONFIG):
        return []
    return runs.configured()["recovery"].get("rules") or []


def _log(file: str | None, *, needed: bool) -> str:
    """The text to classify. A terminal is not read if there is something else to go by."""
    if file not in (None, "-"):
        from ripresa.recovery.failure import read_log

        try:
            os.close(os.open(str(file), os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            raise Refusal(f"{file}: {error.strerror}; give the log of a failed command") from None
        if os.path.isdir(str(file)):
            raise Refusal(f"{file}: is a directory; give the log of a failed command")
        return read_log(str(file))
    if sys.stdin is None or sys.stdin.isatty():
        if needed:
            raise Refusal("nothing to classify: give a FILE, pipe a log in, or name an --exit code")
        return ""
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def _signal(text: str) -> int:
    if text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper().removeprefix("SIG")
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise Refusal(
            f"--signal {text!r}: there is no such signal; give a number or a name like KILL"
        ) from None


def _text(document: dict[str, Any]) -> Iterable[str]:
    retry = "worth another try" if document["retry"] else "the same again would fail again"
    yield f"{document['class']}: {retry}"
    yield f"  evidence  {printable(document['evidence'])}"
    yield f"  rule      {document['rule']}"
