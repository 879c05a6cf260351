# Long jobs: one unit is one point of a job's sweep, or one segment of it (docs/jobs.md).

import json
import subprocess
import sys

from ripresa.dsl import Parameters, Units, escalated, guard

# Templates and limits are known to the family, which rule files do not import.
asked = [sys.executable, "workflow/scripts/job_plan.py", json.dumps(config["jobs"])]
answer = subprocess.run(asked, capture_output=True, text=True)
if answer.returncode:
    raise WorkflowError(answer.stderr.strip())
job_plan = json.loads(answer.stdout)
campaign.rules += job_plan["rules"]


def job_resources(job, units):
    """The resources of a job, of which failures change those that help, up to their limits."""
    asked, limits = job["resources"], job["limits"]
    changing = {name: escalated(units, name, asked[name], limit=limits.get(name)) for name in job["grows"]}
    # Its settings and checkpoints are in the run. (No other executor must see this resource.)
    return {**asked, **changing, **({"shared": 1} if campaign.on_hosts else {})}


def job_command(job, output, directory):
    """The guarded command of a job or a segment. What does not determine the result is no part of its text."""
    words = [f"python workflow/scripts/job_run.py {{params.unit:q}} {output}", "--amount threads={threads}"]
    words += [f"--output {directory}"] if job["output"] else []
    words += [f"--amount {name}={{resources.{name}}}" for name in job["told"]]
    # The name tells this guard's options from those of other jobs.
    words += [f"<<'END_OF_JOB' # {job['name']}"]
    return f"{' '.join(words)}\n{{params.command}}\nEND_OF_JOB"


def job_guard(job, output, directory, schema):
    """A job's command under its guard, with the limits of the job."""
    return guard(
        job_command(job, output, directory),
        # Only the last segment need have made files of its own.
        validate={"0": f"json:workflow/schemas/{schema}.schema.json"}
        | ({"1": "empty-ok"} if job["output"] and job["segments"] else {}),
        stall=job["stall"],
        beat=job["beat"],
        progress="counter:$RIPRESA_PROGRESS" if job["counter"] else None,
        scopes={"workload": job["name"]},
        resources=tuple(job["told"]),
    )


def job_unit(units):
    """The parameters of a unit but for the command, which stands in the shell text in full."""
    return lambda w: Parameters({key: value for key, value in units.find(w).items() if key != "command"})


def job_directory(job, units):
    """The directory of the command's own files, if it has any."""
    return [directory(units.beside(".output"))] if job["output"] else []


def declare_job(job):
    """The rule of a job that runs in one piece."""
    units = Units(f"jobs/{job['name']}/{{point}}/result.json", parameters=job["units"])
    campaign.goals += units.targets()

    rule:
        name:
            f"job_{job['name']}"
        output:
            units.target,
            job_directory(job, units),
        log:
            units.log,
        threads: job["threads"]
        resources:
            **job_resources(job, units),
        params:
            unit=job_unit(units),
            command=lambda w: units.find(w)["command"],
        shell:
            job_guard(job, "{output[0]}", "{output[1]}", "job_result")


def declare_segmented_job(job):
    """The rules of a job that runs in segments, each from the checkpoint of the one before."""
    folder, name = f"jobs/{job['name']}/{{point}}", f"job_{job['name']}_segment"
    numbers = range(1, job["segments"] + 1)
    segments = Units(
        f"{folder}/segment{{segment}}.json",
        parameters=[{**unit, "segment": number} for unit in job["units"] for number in numbers],
    )
    results = Units(
        f"{folder}/result.json",
        parameters=[{"job": unit["job"], "point": unit["point"]} for unit in job["units"]],
    )
    campaign.goals += results.targets()

    def path(point, number):
        return f"{campaign.dir}/{segments.pattern}".format(point=point, segment=number)

    def before(wildcards):
        number = int(wildcards.segment)
        return [path(wildcards.point, number - 1)] if number > 1 else []

    def needed(wildcards):
        """The segments of a job: their number is known once one of them has completed it."""

        def complete(number):
            segment = getattr(checkpoints, name).get(point=wildcards.point, segment=number)
            with open(segment.output[0]) as file:
                return json.load(file)["complete"]

        last = next(filter(complete, numbers), job["segments"])
        return [path(wildcards.point, number) for number in numbers[:last]]

    checkpoint:
        name:
            name
        input:
            before,
        output:
            segments.target,
            job_directory(job, segments),
        log:
            segments.log,
        threads: job["threads"]
        resources:
            **job_resources(job, segments),
        params:
            unit=job_unit(segments),
            command=lambda w: segments.find(w)["command"],
        shell:
            job_guard(job, "{output[0]}", "{output[1]}", "job_segment")

    rule:
        name:
            f"job_{job['name']}"
        input:
            needed,
        output:
            results.target,
            job_directory(job, results),
        log:
            results.log,
        localrule: True
        shell:
            guard(
                "python workflow/scripts/job_result.py {output[0]} {input:q}"
                + (" --output {output[1]}" if job["output"] else ""),
                validate={"0": "json:workflow/schemas/job_result.schema.json"},
            )


for one in job_plan["jobs"]:
    (declare_segmented_job if one["segments"] else declare_job)(one)
