"""Snakemake's `--executor slurm-resume`. Every call of snakemake imports this, so it is kept cheap."""

from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    # The batch system hands its jobs the environment of the controller.
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)

from snakemake_executor_plugin_slurm_resume.executor import Executor  # noqa: E402

__all__ = ["Executor", "common_settings"]
