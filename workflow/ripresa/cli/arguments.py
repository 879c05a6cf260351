"""The words that `ripresa` understands."""

import argparse
from typing import NoReturn

from ripresa.cli.answers import Refusal


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; the usage is a question away."""
        raise Refusal(f"{message}; see {self.prog} --help")


def _run_id(text: str) -> str:
    name = text.removeprefix("runs/").rstrip("/")
    if not name or "/" in name or name.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a run; it is NAME in runs/NAME")
    return name


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _percentage(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 0 to 100")
    return value


class _Commands:
    """Commands of one level, which share the options that all have."""

    def __init__(self, parser: argparse.ArgumentParser, common: argparse.ArgumentParser, module: str) -> None:
        metavar = "COMMAND"
        self._parsers = parser.add_subparsers(dest="command", metavar=metavar, required=True)
        self._common = common
        self._module = module

    def add(self, name: str, text: str, module: str | None = None) -> argparse.ArgumentParser:
        """Add a command, answered by the module of its name or another one."""
        command = self._parsers.add_parser(name, help=text, description=text, parents=[self._common])
        command.set_defaults(module=self._module + (module or name))
        return command


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse a command line; raises Refusal, with one line for people, if it is wrong."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--run", metavar="RUN_ID", type=_run_id, help="another run than the configured one")
    common.add_argument("--json", action="store_true", help="answer with one JSON document")
    parser = _Parser(prog="ripresa", description=__doc__, parents=[common])
    commands = _Commands(parser, common, "")

    status = commands.add("status", "counts and units by state")
    status.add_argument("--all", action="store_true", help="list all units, also the completed ones")

    watch = commands.add("watch", "follow a run, also one that another machine controls; changes nothing")
    watch.add_argument("--once", action="store_true", help="one look, all units, and no more")

    why = commands.add("why", "every attempt of a unit, and what a person should do about it")
    why.add_argument("target", help="a target, its path, a unique end of it or a pattern")

    classify = commands.add("classify", "which failure a log shows, and whether to try again")
    classify.add_argument("file", nargs="?", help="the log; stdin without one")
    classify.add_argument("--exit", type=int, metavar="N", help="exit code of the command")
    classify.add_argument("--signal", metavar="N", help="signal that ended it: a number or name")
    classify.add_argument("--state", metavar="SLURM_STATE", help="state in which SLURM left the job")

    plan = commands.add("plan", "what would run and why")
    plan.add_argument(
        "--profile", metavar="NAME", help="plan the calls with this profile; kept as plan.json of the run"
    )
    plan.add_argument("--yes", action="store_true", help="confirm what is beyond the budget")
    plan.add_argument(
        "--placement", action="store_true", help="which unit would run on which device, when and why"
    )
    _add_snakemake(plan, "plan -- --forceall")

    commands.add("verify", "whether every published file still is what was published")

    release = commands.add("release", "end the quarantine of units, or the exclusion of devices")
    release.add_argument("targets", nargs="*", metavar="TARGET", help="targets or patterns")
    release.add_argument("--all", action="store_true", help="all units that are stopped")
    release.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="NAME",
        help="a device that was excluded; may be repeated",
    )

    doctor = commands.add("doctor", "what is wrong with this machine, profile or run, and the fix")
    doctor.add_argument(
        "--profile", metavar="NAME", help="ask the hosts, too, on which calls with this profile run units"
    )
    commands.add("report", "write Snakemake's HTML report of the run")
    commands.add("runs", "all runs here: their state, units and last event", module="all_runs")

    logs = commands.add("logs", "the last events of a run")
    logs.add_argument("--tail", type=_positive, default=20, metavar="N", help="how many (20)")

    _experiments(commands)

    compare = _compare(commands.add("compare", "benchmarks of two runs, or hosts: what is better or worse"))

    _stack(commands.add("stack", "stack light frames"), common)

    arguments = parser.parse_args(argv)
    vars(arguments).setdefault("run", None)
    vars(arguments).setdefault("json", False)
    if arguments.command == "release":
        chosen = bool(arguments.targets) + arguments.all
        if chosen > 1 or not (chosen or arguments.device):
            release.error("name the TARGETs to release, or give --all, or name a --device")
    if arguments.command == "compare":
        given = bool(arguments.runs), bool(arguments.hosts)
        if all(given) or not any(given) or (arguments.runs and (len(arguments.runs) != 2 or arguments.run)):
            compare.error(
                "name two runs (RUN_ID RUN_ID), or two hosts of one (--hosts HOST HOST [--run RUN_ID])"
            )
    return arguments


def _experiments(commands: _Commands) -> None:
    results = commands.add("results", "the results of experiments that there are so far")
    results.add_argument("phase", nargs="?", metavar="PHASE", help="of this phase only")
    results.add_argument(
        "--csv", metavar="FILE", help="write them to a file, as the final table will have them"
    )

    importing = commands.add("import", "take over what another manager has computed", module="importing")
    importing.add_argument(
        "--table", action="append", required=True, metavar="CSV", help="its table of results; may be repeated"
    )
    importing.add_argument("--state", metavar="JSON", help="the state of its tasks, manager_state.json")


def _compare(compare: argparse.ArgumentParser) -> argparse.ArgumentParser:
    compare.add_argument("runs", nargs="*", type=_run_id, metavar="RUN_ID", help="two runs, A and B")
    compare.add_argument("--hosts", nargs=2, metavar="HOST", help="two hosts of one run instead, A and B")
    for name in ("workload", "metric"):
        compare.add_argument(
            f"--{name}", action="append", metavar="NAME", help=f"this {name}; may be repeated"
        )
    compare.add_argument(
        "--threshold",
        type=_percentage,
        default=1.0,
        metavar="PERCENT",
        help="smaller differences are none (1)",
    )
    return compare


def _stack(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    commands = _Commands(parser, common, "stack.")

    run = commands.add("run", "stack the light frames of a directory")
    run.add_argument("directory", metavar="DIR", help="where the lights are")
    run.add_argument("--recursive", action="store_true", help="search DIR at any depth")
    run.add_argument("--cores", type=_positive, metavar="N", help="how many to use (all)")
    run.add_argument("--settings", metavar="FILE", help="YAML with keys of config/stacking.yaml, which win")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, as in: --set weighting=quality --set mode.allow_few=true",
    )
    _add_snakemake(run, "stack run DIR -- --quiet all")

    scan = commands.add("scan", "what the files of a directory are")
    scan.add_argument("directory", metavar="DIR", help="where the frames are")
    scan.add_argument("--recursive", action="store_true", help="search DIR at any depth")
    scan.add_argument("--bayer", metavar="PATTERN", default="auto", help="of frames whose header names none")

    commands.add("status", "the phases of a stack, and its frames")

    resume = commands.add("resume", "compute a phase and all later ones again")
    resume.add_argument("--from-phase", required=True, metavar="N|NAME", help="the first phase to compute")
    resume.add_argument("--cores", type=_positive, metavar="N", help="how many to use (all)")
    _add_snakemake(resume, "stack resume --from-phase 10 -- --quiet all")

    simulate = commands.add("simulate", "make light frames of a simulated night, with their truth")
    simulate.add_argument("directory", metavar="DIR", help="where to write them")
    for name, default in (("frames", 60), ("width", 600), ("height", 400), ("seed", 1)):
        simulate.add_argument(f"--{name}", type=_positive, default=default, metavar="N", help=f"({default})")
    simulate.add_argument("--stars", type=_positive, metavar="N", help="(270 per megapixel)")
    simulate.add_argument("--bayer", metavar="PATTERN", help="such as RGGB (mono)")


def _add_snakemake(command: argparse.ArgumentParser, example: str) -> None:
    command.add_argument(
        "snakemake", nargs="*", metavar="-- ARGUMENTS", help=f"passed to snakemake, as in: {example}"
    )
