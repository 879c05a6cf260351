# Benchmarks: one unit is one repetition of one workload on one host (docs/benchmarks.md).

import json
import os
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace

# Presets, missing programs and fingerprints are known to the family, which rule files do not import.
asked = [sys.executable, "workflow/scripts/benchmark_plan.py", json.dumps(config["benchmarks"]), campaign.dir]
answer = subprocess.run(asked, capture_output=True, text=True)
if answer.returncode:
    raise WorkflowError(answer.stderr.strip())
benchmark_plan = json.loads(answer.stdout)
benchmark_series = {(one["host"], one["workload"]): one for one in benchmark_plan["series"]}
# By what results call a host: by what the inventory does.
benchmark_hosts = {one["host"]: one["name"] for one in benchmark_plan["hosts"]}


def is_elsewhere(host):
    """Whether a host is another machine than this one."""
    return benchmark_hosts[host] != "localhost"


def out_of_reach(unit):
    """Why the units of a host cannot run in this call."""
    if is_elsewhere(unit["host"]) and not campaign.on_hosts:
        return f"runs on host {benchmark_hosts[unit['host']]}: call `snakemake --profile ansible`"
    return None


for one in benchmark_plan["series"]:
    one["skipped"] = out_of_reach(one) or one["skipped"]

# What the executor for hosts is told. No other must see it: SLURM has a meaning of its own for `exclusive`.
on_its_host = {"host": lambda w: benchmark_hosts[w.host]} if campaign.on_hosts else {}
alone_on_its_host = {**on_its_host, "exclusive": 1} if campaign.on_hosts else {}


def with_its_peer(units):
    """The resources of units of which some take a second host, empty text for those that do not."""
    if not campaign.on_hosts:
        return {}
    return {**alone_on_its_host, "peer": lambda w: benchmark_hosts.get(units.find(w)["peer"], "")}


def benchmark_skip(unit):
    """Why a unit is no target from the start: it cannot run here, or it may not be needed."""
    one = benchmark_series[unit["host"], unit["workload"]]
    optional = (unit.get("repetition") or 0) > one["minimum"]
    return one["skipped"] or ("runs only while earlier repetitions vary too much" if optional else None)


fingerprints = Units(
    "benchmarks/{host}/fingerprint.json", parameters=benchmark_plan["fingerprints"], skip=out_of_reach
)
warmups = Units(
    "benchmarks/{host}/{workload}/warmup.json", parameters=benchmark_plan["warmups"], skip=benchmark_skip
)
repetitions = Units(
    "benchmarks/{host}/{workload}/rep{repetition}.json",
    parameters=benchmark_plan["repetitions"],
    skip=benchmark_skip,
)
verdicts = Units(
    "benchmarks/{host}/{workload}/enough{repetition}.json",
    parameters=benchmark_plan["verdicts"],
    skip=benchmark_skip,
)
plots = Units(
    "benchmarks/plots/{host}.{workload}.png",
    parameters=[{"host": host, "workload": workload} for host, workload in benchmark_series],
    skip=benchmark_skip,
)
summary_table = Units("benchmarks/summary.csv", parameters=[{}])
warning_table = Units(
    "benchmarks/warnings.csv",
    parameters=[{"cv": [[one["host"], one["workload"], one["cv"]] for one in benchmark_plan["series"]]}],
)

campaign.goals += summary_table.targets() + warning_table.targets() + plots.targets()
RESULT = "json:workflow/schemas/benchmark_result.schema.json"


def benchmark_path(units, **wildcards):
    """The path of a unit, whether or not it is needed in the end."""
    return f"{campaign.dir}/{units.pattern}".format(**wildcards)


def benchmark_priority(host, workload, repetition=None):
    """Repetitions of a host run in their order; a warm-up comes right before the first of its workload.

    Below 0, so that verdicts and the work of other families do not wait for all repetitions.
    """
    places = benchmark_series[host, workload]["positions"]
    return 0.5 - min(places) if repetition is None else -places[repetition - 1]


def warmed_up(host, workload):
    """The warm-up, if there is one."""
    if not benchmark_series[host, workload]["warmup"]:
        return []
    return benchmark_path(warmups, host=host, workload=workload)


def first_repetitions(count, host, workload):
    """The first repetitions of a host and workload."""
    return [benchmark_path(repetitions, host=host, workload=workload, repetition=n + 1) for n in range(count)]


def measured_repetitions(host, workload):
    """All repetitions of a host and workload: their number is known once a verdict says enough."""

    def enough(n):
        verdict = checkpoints.benchmark_enough.get(host=host, workload=workload, repetition=n)
        with open(verdict.output[0]) as file:
            return json.load(file)["enough"]

    one = benchmark_series[host, workload]
    count = next((n for n in range(one["minimum"], one["maximum"]) if enough(n)), one["maximum"])
    return first_repetitions(count, host, workload)


def measured_so_far(pairs):
    """The results that there are of some hosts and workloads."""
    possible = [
        path for pair in pairs for path in first_repetitions(benchmark_series[pair]["maximum"], *pair)
    ]
    return [path for path in possible if os.path.exists(path)]


# A function for each, so that no workload waits for the verdicts of another.
all_measured = [
    lambda _, pair=pair: measured_repetitions(*pair)
    for pair, one in benchmark_series.items()
    if not one["skipped"]
]


include: "benchmark_hosts.smk"


rule benchmark_fingerprint:
    input:
        lambda w: set_up(w.host),
    output:
        fingerprints.target,
    log:
        fingerprints.log,
    resources:
        **on_its_host,
    params:
        unit=fingerprints.params,
    shell:
        guard("python workflow/scripts/benchmark_fingerprint.py {params.unit:q} {output}", validate="json")


rule benchmark_warmup:
    input:
        f"{campaign.dir}/{fingerprints.pattern}",
    output:
        warmups.target,
    log:
        warmups.log,
    priority: lambda w: benchmark_priority(w.host, w.workload)
    threads: workflow.cores
    resources:
        **with_its_peer(warmups),
    params:
        unit=warmups.params,
    shell:
        guard(
            "python workflow/scripts/benchmark_run.py {params.unit:q} {input} {output}",
            validate=RESULT,
            scopes={"host": "{wildcards.host}", "workload": "{wildcards.workload}"},
        )


rule benchmark_repetition:
    input:
        fingerprint=f"{campaign.dir}/{fingerprints.pattern}",
        warmup=lambda w: warmed_up(w.host, w.workload),
    output:
        result=repetitions.target,
        samples=repetitions.beside(".samples.csv"),
    log:
        repetitions.log,
    priority: lambda w: benchmark_priority(w.host, w.workload, int(w.repetition))
    # All cores, so that nothing else runs beside a measurement.
    threads: workflow.cores
    resources:
        **with_its_peer(repetitions),
    params:
        unit=repetitions.params,
    shell:
        guard(
            "python workflow/scripts/benchmark_run.py {params.unit:q} {input.fingerprint} "
            "{output.result} {output.samples}",
            validate={"result": RESULT, "samples": "csv:columns=time_s"},
            scopes={"host": "{wildcards.host}", "workload": "{wildcards.workload}"},
        )


checkpoint benchmark_enough:
    input:
        lambda w: first_repetitions(int(w.repetition), w.host, w.workload),
    output:
        verdicts.target,
    log:
        verdicts.log,
    localrule: campaign.on_hosts
    params:
        unit=verdicts.params,
    shell:
        guard("python workflow/scripts/benchmark_enough.py {params.unit:q} {output} {input}", validate="json")


rule benchmark_plot:
    input:
        lambda w: measured_repetitions(w.host, w.workload),
    output:
        plots.target,
    log:
        plots.log,
    localrule: campaign.on_hosts
    shell:
        guard('python workflow/scripts/benchmark_plot.py "$RIPRESA_RUN" {output} {input}')


def measured_elsewhere(_):
    """The results of hosts that are out of reach. No inputs, as nothing in this call could make them again."""
    return measured_so_far(pair for pair, one in benchmark_series.items() if out_of_reach(one))


SUMMARY = guard(
    'python workflow/scripts/benchmark_summary.py "$RIPRESA_RUN" {output} {input} {params.elsewhere}',
    validate="csv:columns=host,workload,metric,n rows=0",
)


rule benchmark_summary:
    input:
        all_measured,
    output:
        summary_table.target,
    log:
        summary_table.log,
    localrule: campaign.on_hosts
    params:
        elsewhere=measured_elsewhere,
    shell:
        SUMMARY


WARNINGS = guard(
    'python workflow/scripts/benchmark_warnings.py {params.unit:q} "$RIPRESA_RUN" {output} {input} '
    "{params.elsewhere}",
    validate="csv:columns=host,workload,repetition,kind,evidence rows=0",
)


rule benchmark_warnings:
    input:
        all_measured,
    output:
        warning_table.target,
    log:
        warning_table.log,
    localrule: campaign.on_hosts
    params:
        unit=warning_table.params,
        elsewhere=measured_elsewhere,
    shell:
        WARNINGS


def tables_of_what_there_is():
    """Make the tables of the results that there are: a host that failed keeps back no other."""
    there = measured_so_far(benchmark_series)
    tables = {"benchmark_summary": (summary_table, SUMMARY), "benchmark_warnings": (warning_table, WARNINGS)}
    for name, (units, command) in tables.items() if there else ():
        values = {
            "rule": name,
            "log": units.log,
            "threads": 1,
            "output": [units.target],
            "input": there,
            "params": SimpleNamespace(unit=units.find({}), elsewhere=[]),
        }
        with suppress(subprocess.CalledProcessError):  # why is on record, as of any unit
            shell(command, **values)


campaign.at_failure.append(tables_of_what_there_is)
