"""`ripresa compare`: the benchmarks of two runs, or of two hosts of one run."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Refusal, Table, count, cut
from ripresa.families.benchmarks import comparison, noise, results
from ripresa.families.benchmarks.comparison import Pair, Row
from ripresa.families.benchmarks.inference import CONFIDENCE
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.results import Series
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

_SHOWN = 20


class _Side(NamedTuple):
    """A run, and the host of it that is compared; None for all."""

    run: Run
    host: str | None

    def __str__(self) -> str:
        return f"run {self.run.run_id}" if self.host is None else printable(self.host)


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if something is worse or cannot be compared."""
    sides, pairs = _matched(arguments)
    _check(arguments.workload, {pair[1] for pair in pairs}, "workload")
    if arguments.workload:
        pairs = [pair for pair in pairs if pair[1] in arguments.workload]
    _check(
        arguments.metric,
        {name for pair in pairs for one in pair[2:] if one for name in one.metrics()},
        "metric",
    )
    rows = comparison.compare(pairs, arguments.metric, arguments.threshold / 100)
    document = {
        **{
            name: {"run_id": side.run.run_id, "host": side.host}
            for name, side in zip("ab", sides, strict=True)
        },
        "confidence": CONFIDENCE,
        "threshold_percent": arguments.threshold,
        "counts": {verdict: sum(row.verdict == verdict for row in rows) for verdict in comparison.VERDICTS},
        "comparisons": [comparison.as_document(row) for row in rows],
        "fingerprints": _fingerprints(sides, pairs),
        "warnings": {
            "a": _warnings(sides[0].run, [a for *_, a, _ in pairs]),
            "b": _warnings(sides[1].run, [b for *_, b in pairs]),
        },
    }
    counts = document["counts"]
    return Answer(
        document, lambda: _text(sides, document, rows), int(bool(counts["worse"] + counts["incomparable"]))
    )


def _matched(arguments: argparse.Namespace) -> tuple[tuple[_Side, _Side], list[Pair]]:
    """The sides and their series."""
    if not arguments.hosts:
        a, b = (_Side(runs.started(name), None) for name in arguments.runs)
        return (a, b), comparison.of_runs(_series(a.run), _series(b.run))
    run = runs.chosen(arguments)
    series = _series(run)
    _check(arguments.hosts, {host for host, _ in series}, f"host in run '{run.run_id}'")
    first, second = arguments.hosts
    return (_Side(run, first), _Side(run, second)), comparison.of_hosts(series, first, second)


def _series(run: Run) -> dict[tuple[str, str], Series]:
    try:
        found = results.read(run.dir)
    except BenchmarkError as error:
        raise Refusal(printable(error), 1) from None
    if not found:
        raise Refusal(f"run '{run.run_id}' has no results of benchmarks", 1)
    return found


def _check(names: Sequence[str] | None, known: Collection[str], what: str) -> None:
    for name in names or ():
        if name not in known:
            there = ", ".join(map(printable, sorted(known)))
            raise Refusal(f"there is no {what} called {printable(name)!r}; there is {there}")


def _fingerprints(sides: Sequence[_Side], pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """What differs between the fingerprints of the hosts, once for each pair of hosts."""
    digests: dict[tuple[str, str], list[str]] = {}
    for *_, a, b in pairs:
        if a and b and a.newest["fingerprint"] != b.newest["fingerprint"]:
            hosts = (a.newest["host"], b.newest["host"])
            digests.setdefault(hosts, [a.newest["fingerprint"], b.newest["fingerprint"]])
    found = []
    for hosts, pair in digests.items():
        systems = [
            results.system(side.run.dir, host, digest)
            for side, host, digest in zip(sides, hosts, pair, strict=True)
        ]
        changes = results.changes(*systems)
        found.append(
            {"a": hosts[0], "b": hosts[1], "changes": {name: list(both) for name, both in changes.items()}}
        )
    return found


def _warnings(run: Run, compared: Iterable[Series | None]) -> list[dict[str, Any]] | None:
    """The warnings about what is compared; None if the run has not come so far."""
    found = noise.read(f"{run.dir}/{noise.FILE}")
    meant = {(one.newest["host"], one.newest["workload"]) for one in compared if one}
    return None if found is None else [one._asdict() for one in found if (one.host, one.workload) in meant]


def _text(sides: Sequence[_Side], document: dict[str, Any], rows: Sequence[Row]) -> Iterable[str | Table]:
    yield f"A: {sides[0]}, B: {sides[1]}; gain: of B over A, above 0 is better"
    for one in document["fingerprints"]:
        names = ", ".join(map(printable, one["changes"])) or "in what is no longer on file"
        hosts = one["a"] if one["a"] == one["b"] else f"{one['a']} and {one['b']}"
        yield f"{printable(hosts)}: fingerprints differ: {names}"
    yield ""
    hosts = sorted({row.host for row in rows if row.host is not None})
    heading = (
        "WORKLOAD",
        "METRIC",
        "UNIT",
        "N",
        "A",
        "B",
        "GAIN %",
        "95 % INTERVAL",
        "DELTA",
        "VERDICT",
        "REMARK",
    )
    for host in hosts or [None]:
        if len(hosts) > 1:
            yield f"{printable(host)}:"
        yield Table(heading, [_line(row) for row in rows if row.host == host])
        yield ""
    yield ", ".join(f"{number} {verdict}" for verdict, number in document["counts"].items() if number)
    for name, found in document["warnings"].items():
        if found is None:
            yield f"{name.upper()} has no {noise.FILE} yet: its run is not complete"
        elif found:
            yield ""
            shown, hidden = cut(found, _SHOWN)
            yield Table((f"WARNING IN {name.upper()}", "WHERE", "EVIDENCE"), [_warning(one) for one in shown])
            if hidden:
                yield f"... and {count(hidden, 'more warning')}; --json lists all"


def _line(row: Row) -> tuple[str, ...]:
    sides = (row.a, row.b)
    return (
        printable(row.workload),
        printable(row.metric) + (" *" if row.primary else ""),
        printable(row.unit),
        "/".join(str(side.n) if side else "-" for side in sides),
        *(f"{side.mean:.4g}" if side else "-" for side in sides),
        "" if row.gain is None else f"{100 * row.gain:+.2f}",
        "" if row.low is None or row.high is None else f"{100 * row.low:+.2f} to {100 * row.high:+.2f}",
        "" if row.delta is None else f"{row.delta:+.2f}",
        row.verdict,
        printable("; ".join(row.remarks)),
    )


def _warning(one: dict[str, Any]) -> tuple[str, ...]:
    where = f"{one['host']}/{one['workload']}" + (f"/rep{one['repetition']}" if one["repetition"] else "")
    return printable(one["kind"]), printable(where), printable(one["evidence"])
