# The life of a host that benchmarks run on: it is set up before anything runs there, tells what explains its
# numbers once all are measured, and is torn down (docs/ansible.md). This machine needs none of that.

away = [one for one in benchmark_plan["hosts"] if is_elsewhere(one["host"])]
setups = Units("benchmarks/{host}/setup.json", parameters=away, skip=out_of_reach)
collections = Units("benchmarks/{host}/collected.tar.gz", parameters=away, skip=out_of_reach)
teardowns = Units(
    "benchmarks/{host}/teardown.json",
    parameters=[{"host": one["host"], "name": one["name"]} for one in away],
    skip=out_of_reach,
)

campaign.goals += collections.targets() + teardowns.targets()


def set_up(host):
    """The set-up of another host. That it came first matters, not when."""
    return ancient(benchmark_path(setups, host=host)) if is_elsewhere(host) else []


# All that is measured on a host; a function for each workload, so that none waits for the verdicts of another.
all_measured_there = [
    lambda w, workload=workload: (
        [] if benchmark_series[w.host, workload]["skipped"] else measured_repetitions(w.host, workload)
    )
    for workload in dict.fromkeys(workload for _, workload in benchmark_series)
]


rule benchmark_setup:
    output:
        setups.target,
    log:
        setups.log,
    localrule: True
    params:
        unit=setups.params,
    shell:
        guard(
            "python workflow/scripts/host_setup.py {params.unit:q} {output}",
            validate="json",
            scopes={"host": "{wildcards.host}"},
        )


rule benchmark_collect:
    input:
        all_measured_there,
    output:
        collections.target,
    log:
        collections.log,
    resources:
        **on_its_host,
    params:
        unit=collections.params,
    shell:
        guard(
            "python workflow/scripts/benchmark_collect.py {params.unit:q} {output} {input}",
            validate="command:tar -tzf {}",
            scopes={"host": "{wildcards.host}"},
        )


rule benchmark_teardown:
    input:
        all_measured_there,
        f"{campaign.dir}/{collections.pattern}",
    output:
        teardowns.target,
    log:
        teardowns.log,
    localrule: True
    params:
        unit=teardowns.params,
    shell:
        guard(
            "python workflow/scripts/host_teardown.py {params.unit:q} {output}",
            validate="json",
            scopes={"host": "{wildcards.host}"},
        )
