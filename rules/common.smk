# Load and validate the configuration, open the run. Included first; everything else is in the package.

import os

from snakemake.exceptions import WorkflowError

from ripresa.configuration import (
    ConfigurationError,
    check_resume,
    load_policy,
    resolve,
    sha256,
    snapshot,
)
from ripresa.dsl import Units, guard, open_run
from ripresa.journal.controller import RunIsHeld

try:
    config = resolve(config, Path("config"))
    notifications = config.pop("notify", None)  # it is no part of the campaign, and may hold a secret
    if config["inventory"]:
        os.environ.setdefault("ANSIBLE_INVENTORY", os.path.abspath(config["inventory"]))
    campaign = open_run(config["run_id"], main=workflow.is_main_process)
    check_resume(campaign.dir, config)
except (ConfigurationError, NotADirectoryError) as error:
    raise WorkflowError(str(error))


onstart:
    try:
        campaign.start(
            ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output),
            config_sha256=sha256(config),
            policy=load_policy(config["recovery"]),
            forced=bool(workflow.dag_settings.forcerun or workflow.dag_settings.forceall),
            needed=(job.rule.name for job in workflow.dag.needrun_jobs()),
            needs={
                job.output[0]: [other.output[0] for other in others if other.output]
                for job, others in workflow.dag.dependencies.items()
                if job.output
            },
            notifications=notifications,
            devices=config["devices"],
        )
        snapshot(campaign.dir, config)
    except RunIsHeld as error:
        raise WorkflowError(str(error))
    except OSError as error:
        raise WorkflowError(
            f"cannot write to {campaign.dir}: {error}; free space or repair it, then call again"
        )


def complete():
    """What Snakemake knows to be there."""
    dag = workflow.dag
    return (job.output[0] for job in dag.jobs if job.output and (dag.finished(job) or not dag.needrun(job)))


onsuccess:
    campaign.end(complete())


onerror:
    for do in campaign.at_failure:
        do()
    campaign.end(complete())
