"""`ripresa doctor`: what is wrong with this machine, profile or run, and the fix."""

import argparse
from collections.abc import Iterable, Iterator

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Refusal, Table, count
from ripresa.cli.checks import FAIL, OK, WARN, Check, campaign, devices, hosts, machine, storage


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if something would keep a campaign from working; warnings do not count."""
    found = list(_checks(arguments))
    document = [check._asdict() for check in found]
    failed = any(check.level == FAIL for check in found)
    return Answer(document, lambda: _text(found), 1 if failed else 0)


def _checks(arguments: argparse.Namespace) -> Iterator[Check]:
    yield from machine.checks()
    try:
        config = runs.configured(arguments.run)
    except Refusal as error:
        for problem in str(error).splitlines():
            yield Check("configuration", FAIL, problem, "correct it; config/README.md explains every key")
    else:
        yield Check("configuration", OK, f"valid; families {', '.join(config['families'])}")
        yield from devices.checks(config["devices"])
        if arguments.profile:
            yield from hosts.checks(config, arguments.profile)
    yield from campaign.profile()
    try:
        run = runs.named(arguments)
    except Refusal:
        yield from storage.checks(runs.RUNS)
        return
    yield from storage.checks(run.dir)
    yield from campaign.checks(run)


def _text(found: list[Check]) -> Iterable[str | Table]:
    yield Table(("LEVEL", "CHECK", "FOUND"), [(check.level, check.name, check.found) for check in found])
    yield ""
    for check in found:
        if check.level != OK:
            yield f"{check.level}: {check.name}: {check.fix}"
    failed, warned = (sum(check.level == level for check in found) for level in (FAIL, WARN))
    yield f"{count(failed, 'failure')}, {count(warned, 'warning')} in {count(len(found), 'check')}"
