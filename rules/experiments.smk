# Experiments: one unit is one parameter set, named by its digest, whichever phases have it (docs/experiments.md).

import json
import subprocess
import sys

from ripresa.dsl import Units, devices, escalated, guard

# Parameters, models and what they cost are known to the family, which rule files do not import.
asked = [sys.executable, "workflow/scripts/experiment_plan.py", json.dumps(config["experiments"])]
answer = subprocess.run(asked, capture_output=True, text=True)
if answer.returncode:
    raise WorkflowError(answer.stderr.strip())
experiment_plan = json.loads(answer.stdout)
experiment_devices = config["experiments"]["resources"]

experiments = Units(
    "experiments/{digest}.json",
    parameters=[one["parameters"] for one in experiment_plan["experiments"].values()],
)
experiment_tables = Units(
    "experiments/{phase}/results.csv",
    parameters=[{"phase": one["name"], "definition": one["definition"]} for one in experiment_plan["phases"]],
)
experiment_plots = Units(
    "experiments/{phase}/{plot}.png",
    parameters=[
        {"phase": one["name"], "plot": plot} for one in experiment_plan["phases"] for plot in one["plots"]
    ],
)
experiment_results = {
    one["name"]: [f"{campaign.dir}/{experiments.pattern}".format(digest=name) for name in one["digests"]]
    for one in experiment_plan["phases"]
}
campaign.parts |= experiment_results
campaign.goals += experiment_tables.targets() + experiment_plots.targets()


def experiment_needs(name):
    """What the plan says that an experiment needs or costs."""
    return lambda w: experiment_plan["experiments"][w.digest][name]


experiment_memory = experiment_devices["gpu_mem_mb"]


rule experiment:
    output:
        experiments.target,
    log:
        experiments.log,
    threads: experiment_devices["threads"]
    resources:
        **({"shared": 1} if campaign.on_hosts else {}),  # Its checkpoints are in the run.
        **devices(
            experiments,
            gpu=experiment_devices["gpu"],
            memory_mb=experiment_needs("gpu_mem_mb") if experiment_memory == "auto" else experiment_memory,
            on=experiment_devices["device_kinds"],
        ),
        cost=experiment_needs("cost"),
        # After a failure for want of GPU memory it is computed in smaller parts of the same batch.
        batch_size=escalated(
            experiments,
            "batch_size",
            lambda parameters: parameters["batch_size"],
            like=("dataset", "model_type", "width_factor", "depth", "batch_size"),
        ),
        backend=config["experiments"]["backend"],
    params:
        unit=experiments.params,
    shell:
        guard(
            "python workflow/scripts/experiment_run.py {params.unit:q} {output} "
            '--checkpoints "$RIPRESA_RUN/experiments/.checkpoints" '
            "--micro-batch {resources.batch_size} --backend {resources.backend}",
            validate="json:workflow/schemas/experiment_result.schema.json",
            progress="counter:$RIPRESA_PROGRESS",
            scopes={"workload": "experiment"},
            resources=("batch_size", "backend", "cost", "gpu_device"),
        )


rule experiment_table:
    input:
        lambda w: experiment_results[w.phase],
    output:
        experiment_tables.target,
        f"{campaign.dir}/experiments/{{phase}}/results.parquet",
        f"{campaign.dir}/experiments/{{phase}}/summary.csv",
    log:
        experiment_tables.log,
    localrule: campaign.on_hosts
    params:
        unit=experiment_tables.params,
    shell:
        guard(
            'python workflow/scripts/experiment_table.py {params.unit:q} "$RIPRESA_RUN" {output}',
            validate={"0": "csv:columns=phase,signature,seed", "2": "csv:columns=phase,seeds"},
        )


rule experiment_plot:
    input:
        f"{campaign.dir}/experiments/{{phase}}/results.parquet",
    output:
        experiment_plots.target,
    log:
        experiment_plots.log,
    localrule: campaign.on_hosts
    shell:
        guard("python workflow/scripts/experiment_plot.py {wildcards.plot} {input} {output}")


rule EXPERIMENTS:
    input:
        experiment_tables.targets(),
        experiment_plots.targets(),


for phase in experiment_plan["phases"]:

    rule:
        name:
            phase["name"].upper()
        input:
            experiment_tables.targets(phase=phase["name"]),
            experiment_plots.targets(phase=phase["name"]),
