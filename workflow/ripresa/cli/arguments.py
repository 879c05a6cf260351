"""The words that `ripresa` understands."""

import argparse
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; the usage is a question away."""
        self.exit(2, f"ripresa: {message}; see {self.prog} --help\n")


def _run_id(text: str) -> str:
    name = text.removeprefix("runs/").rstrip("/")
    if not name or "/" in name or name.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a run; it is NAME in runs/NAME")
    return name


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line; ends the process with 2, and one line on stderr, if it is wrong."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--run", metavar="RUN_ID", type=_run_id, help="another run than the configured one")
    common.add_argument("--json", action="store_true", help="answer with one JSON document")
    parser = _Parser(prog="ripresa", description=__doc__, parents=[common])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    status = command("status", "counts and units by state")
    status.add_argument("--all", action="store_true", help="list all units, also the completed ones")

    why = command("why", "every attempt of a unit, and what a person should do about it")
    why.add_argument("target", help="a target, its path, a unique end of it or a pattern")

    classify = command("classify", "which failure a log shows, and whether to try again")
    classify.add_argument("file", nargs="?", help="the log; stdin without one")
    classify.add_argument("--exit", type=int, metavar="N", help="exit code of the command")
    classify.add_argument("--signal", metavar="N", help="signal that ended it: a number or name")
    classify.add_argument("--state", metavar="SLURM_STATE", help="state in which SLURM left the job")

    plan = command("plan", "what would run and why")
    plan.add_argument(
        "snakemake", nargs="*", metavar="-- ARGUMENTS", help="passed to snakemake, as in: plan -- --forceall"
    )

    command("verify", "whether every published file still is what was published")

    release = command("release", "end the quarantine of units, or that they were given up")
    release.add_argument("targets", nargs="*", metavar="TARGET", help="targets or patterns")
    release.add_argument("--all", action="store_true", help="everything that is stopped")

    command("doctor", "what is wrong with this machine, profile or run, and the fix")
    command("report", "write Snakemake's HTML report of the run")

    arguments = parser.parse_args(argv)
    vars(arguments).setdefault("run", None)
    vars(arguments).setdefault("json", False)
    if arguments.command == "release" and bool(arguments.targets) == arguments.all:
        release.error("name the TARGETs to release, or give --all")
    return arguments
