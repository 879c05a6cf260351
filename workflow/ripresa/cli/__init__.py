"""The command `ripresa`: what a campaign did and will do, and what a person should do (docs/commands.md).

Every command is a module with a function ``answer(arguments) -> Answer``, of its name unless `arguments`
says otherwise; it is imported when it is called, so that `ripresa status` need not wait for what only
`ripresa doctor` uses.
"""

import importlib
import os
import sys

from ripresa.cli.answers import Answer, Refusal, show

_TELLING = {"stack", "runs", "logs", "compare", "results", "import"}
"""Commands whose errors are documents too; those of the others leave stdout empty."""


def main(argv: list[str] | None = None) -> int:
    """Answer one command; returns 0 for fine, 1 if something failed or is invalid, 2 for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    words = sys.argv[1:] if argv is None else argv
    try:
        from ripresa.cli.arguments import parse

        arguments = parse(words)
        answer: Answer = importlib.import_module(f"ripresa.cli.{arguments.module}").answer(arguments)
        return _print(answer, json=arguments.json)
    except Refusal as error:
        return _refuse(error, json="--json" in words and not _TELLING.isdisjoint(words))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _reader_left(0)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get("RIPRESA_TRACEBACK"):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _say(f"stopped by a mistake of its own: {reason}; RIPRESA_TRACEBACK=1 shows where", 1)


def _refuse(error: Refusal, *, json: bool) -> int:
    if json:
        _print(Answer(error.document, tuple), json=True)
    return _say(str(error), error.code)


def _print(answer: Answer, *, json: bool) -> int:
    try:
        show(answer, json=json)
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_left(answer.code)
    return _say("\n".join(answer.errors), answer.code)


def _reader_left(code: int) -> int:
    """Who reads (`head`, a pager) has seen enough; the interpreter must not try to write the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _say(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"ripresa: {line}", file=sys.stderr)
    return code
