"""The hosts of the inventory that benchmarks are to run on; asked only on request."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ripresa.cli.checks import FAIL, OK, Check

_AT_A_TIME = 16
_DEVICES = "devices elsewhere"
_PING = "`ansible -i INVENTORY HOST -m ansible.builtin.ping`"
_FIXES = {
    "network": f"check its address and port in the inventory; {_PING} says more",
    "permission": "check user, keys and become password in the inventory, and whose ripresa_dir is",
    "environment": "install Python 3.9 or newer there, or name it in ansible_python_interpreter",
    "configuration": "correct what the inventory says of it: `ansible-inventory -i INVENTORY --host HOST`",
    "disk": "free space there, or set ripresa_dir to a folder with some",
    "file_system": "set ripresa_dir to a folder that can be written to",
}
_OTHER = f"see what {_PING} says"


def checks(config: Mapping[str, Any], profile: str) -> Iterator[Check]:
    """Look at the inventory and at each of ``benchmarks.hosts``, if the profile runs units there."""
    executor = _executor(profile)
    if executor != "ansible":
        found = f"executor {executor}: runs nothing on hosts of an inventory" if executor else "not found"
        fix = "" if executor else f"name a folder with a config.yaml, such as profiles/{profile}"
        yield Check(f"profile {profile}", OK if executor else FAIL, found, fix)
        if executor == "slurm-resume":
            yield Check(_DEVICES, OK, "SLURM assigns them (--gpus, --gres); those above are of this machine")
        return
    yield Check(
        _DEVICES,
        OK,
        "not assigned, those above are of this machine: on a host, a unit that needs a GPU is alone, and one "
        "that can do without sees none",
    )
    from ripresa.hosts.inventory import InventoryError, UnknownHosts, resolve

    if config["inventory"]:
        os.environ.setdefault("ANSIBLE_INVENTORY", os.path.abspath(config["inventory"]))
    source = os.environ.get("ANSIBLE_INVENTORY", "as Ansible is configured")
    try:
        hosts = resolve(config.get("benchmarks", {}).get("hosts", []))
    except InventoryError as error:
        yield Check("inventory", FAIL, str(error), "correct the file, or `inventory` in config/config.yaml")
        return
    except UnknownHosts as error:
        for number, problem in error.problems.items():
            fix = "correct config/benchmarks.yaml or the inventory"
            yield Check("inventory", FAIL, f"benchmarks.hosts[{number}]: {problem}", fix)
        return
    yield Check("inventory", OK, source)
    yield from _ask(hosts)


def _executor(profile: str) -> str | None:
    """The executor of a profile, named as snakemake takes it; None without a profile of this name."""
    from ripresa.configuration.reading import read

    for folder in (profile, f"profiles/{profile}"):
        if os.path.isfile(f"{folder}/config.yaml"):
            return str(read(f"{folder}/config.yaml").get("executor", "local"))
    return None


def _ask(hosts: list[str]) -> Iterator[Check]:
    from ripresa.hosts.client import Client, Refused
    from ripresa.hosts.roster import Roster
    from ripresa.hosts.transport import PatternError, Transport, Unreachable

    with tempfile.TemporaryDirectory(prefix="ripresa-") as folder:
        transport = Transport([], folder, lambda warning: None)
        roster = Roster(transport)

        def ask(name: str) -> Check:
            try:
                client = Client(transport, roster.host(name), f"doctor-{os.uname().nodename}-{os.getpid()}")
                answer = client.exchange([{"op": "hello"}, {"op": "clean", "kill": True}])
                for told in answer["done"]:
                    if "error" in told:
                        raise Refused(told["error"], told["evidence"])
            except (Unreachable, Refused) as error:
                fix = _FIXES.get(error.failure_class, _OTHER).replace("HOST", name)
                return Check(f"host {name}", FAIL, f"{error.failure_class}: {error.evidence}", fix)
            except PatternError as error:
                return Check(f"host {name}", FAIL, str(error), "correct the inventory")
            told = answer["done"][0]
            found = (
                f"Python {told['python']}, {told['cpus']} cores, {told['mem_mb']:.0f} MB, "
                f"{told['free_mb']:.0f} MB free in {told['root']}"
            )
            return Check(f"host {name}", OK, found)

        try:
            roster.prepare(hosts)
            with ThreadPoolExecutor(_AT_A_TIME) as threads:
                yield from threads.map(ask, hosts)
        finally:
            transport.close()
