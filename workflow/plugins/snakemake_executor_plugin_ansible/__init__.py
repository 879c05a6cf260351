"""Snakemake's `--executor ansible`. Every call of snakemake imports this, so it is kept cheap."""

from dataclasses import dataclass, field
from typing import Optional

from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

common_settings = CommonSettings(
    non_local_exec=True,
    # Files are brought to the hosts and back by the plugin itself, so for Snakemake all are here.
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    can_transfer_local_files=True,
)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """The settings on the command line (`--ansible-inventory`) and in profiles."""

    inventory: Optional[str] = field(  # noqa: UP045 - Snakemake reads the annotation and knows no other
        default=None,
        metadata={
            "help": "What `ansible -i` takes: the path of an inventory file, directory or script. "
            "Without it Ansible's own configuration names the inventory.",
            "env_var": False,
            "required": False,
        },
    )

    def __post_init__(self) -> None:
        """Note that this executor was chosen: rule files have to know it, and are read next."""
        from ripresa.dsl import executor

        executor.on_hosts = True


from snakemake_executor_plugin_ansible.executor import Executor  # noqa: E402

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
