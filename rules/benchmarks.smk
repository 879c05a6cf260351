# Benchmarks: one unit is one repetition of one workload on one host (docs/benchmarks.md).

import json
import subprocess
import sys

# Presets, missing programs and fingerprints are known to the family, which rule files do not import.
asked = [sys.executable, "workflow/scripts/benchmark_plan.py", json.dumps(config["benchmarks"]), campaign.dir]
answer = subprocess.run(asked, capture_output=True, text=True)
if answer.returncode:
    raise WorkflowError(answer.stderr.strip())
plan = json.loads(answer.stdout)
series = {(one["host"], one["workload"]): one for one in plan["series"]}


def skip(unit):
    """Why a unit is no target from the start: it cannot run here, or it may not be needed."""
    one = series[unit["host"], unit["workload"]]
    optional = (unit.get("repetition") or 0) > one["minimum"]
    return one["skipped"] or ("runs only while earlier repetitions vary too much" if optional else None)


fingerprints = Units("benchmarks/{host}/fingerprint.json", parameters=plan["fingerprints"])
warmups = Units("benchmarks/{host}/{workload}/warmup.json", parameters=plan["warmups"], skip=skip)
repetitions = Units(
    "benchmarks/{host}/{workload}/rep{repetition}.json", parameters=plan["repetitions"], skip=skip
)
verdicts = Units(
    "benchmarks/{host}/{workload}/enough{repetition}.json", parameters=plan["verdicts"], skip=skip
)
plots = Units(
    "benchmarks/plots/{host}.{workload}.png",
    parameters=[{"host": host, "workload": workload} for host, workload in series],
    skip=skip,
)
summary = Units("benchmarks/summary.csv", parameters=[{}])

BENCHMARKS = summary.targets() + plots.targets()
RESULT = "json:workflow/schemas/benchmark_result.schema.json"


def at(units, **wildcards):
    """The path of a unit, whether or not it is needed in the end."""
    return f"{campaign.dir}/{units.pattern}".format(**wildcards)


def first(count, host, workload):
    """The first repetitions of a host and workload."""
    return [at(repetitions, host=host, workload=workload, repetition=n + 1) for n in range(count)]


def measured(host, workload):
    """All repetitions of a host and workload: their number is known once a verdict says enough."""

    def enough(n):
        verdict = checkpoints.benchmark_enough.get(host=host, workload=workload, repetition=n)
        with open(verdict.output[0]) as file:
            return json.load(file)["enough"]

    one = series[host, workload]
    count = next((n for n in range(one["minimum"], one["maximum"]) if enough(n)), one["maximum"])
    return first(count, host, workload)


rule benchmark_fingerprint:
    output:
        fingerprints.target,
    log:
        fingerprints.log,
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
    threads: workflow.cores
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
        # That the warm-up came first matters, not when.
        warmup=lambda w: ancient(at(warmups, **w)) if series[w.host, w.workload]["warmup"] else [],
    output:
        result=repetitions.target,
        samples=repetitions.beside(".samples.csv"),
    log:
        repetitions.log,
    # All cores, so that nothing else runs beside a measurement.
    threads: workflow.cores
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
        lambda w: first(int(w.repetition), w.host, w.workload),
    output:
        verdicts.target,
    log:
        verdicts.log,
    params:
        unit=verdicts.params,
    shell:
        guard("python workflow/scripts/benchmark_enough.py {params.unit:q} {output} {input}", validate="json")


rule benchmark_plot:
    input:
        lambda w: measured(w.host, w.workload),
    output:
        plots.target,
    log:
        plots.log,
    params:
        run=campaign.dir,
        attempts=f"{campaign.run.journal}/attempts",
    shell:
        guard("python workflow/scripts/benchmark_plot.py {params.run:q} {params.attempts:q} {output} {input}")


rule benchmark_summary:
    input:
        # A function for each, so that no workload waits for the verdicts of another.
        [lambda _, pair=pair: measured(*pair) for pair, one in series.items() if not one["skipped"]],
    output:
        summary.target,
    log:
        summary.log,
    params:
        run=campaign.dir,
        attempts=f"{campaign.run.journal}/attempts",
    shell:
        guard(
            "python workflow/scripts/benchmark_summary.py {params.run:q} {params.attempts:q} {output} {input}",
            validate="csv:columns=host,workload,metric,n rows=0",
        )
