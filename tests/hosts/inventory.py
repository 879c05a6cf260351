"""The inventory of the hosts, as an administrator would write it."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hosts.configuration import ADDRESSES, NAMES, PASSWORD, USER, Layout

GROUPS = {"bench": NAMES, "fast": NAMES[:2]}
VAULT_PASSWORD = "open sesame"


class Inventory(NamedTuple):
    """The file, and the file with the password of what is vaulted in it, if anything is."""

    path: Path
    vault_password_file: Path | None


class _Vaulted(str):
    pass


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Vaulted, lambda dumper, text: dumper.represent_scalar("!vault", str(text), style="|")
)


def write(layout: Layout, folder: Path, become: bool) -> Inventory:
    """Write ``inventory.yml`` with groups `bench` (all hosts) and `fast` (h1, h2), and ``known_hosts``.

    Hosts are entered as root, or, to ``become`` root, as a user whose password for sudo is vaulted; then
    ``vault-password`` is written too. Which Python to use is left to Ansible.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "known_hosts"
    known.write_text("".join(_known(layout, host) for host in NAMES))
    hosts: dict[str, Any] = {
        host: {
            "ansible_host": ADDRESSES[host],
            "ansible_port": layout.port,
            "ansible_user": USER if become else "root",
            "ansible_ssh_private_key_file": str(layout.key),
        }
        for host in NAMES
    }
    options = f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={known} -o GlobalKnownHostsFile=/dev/null"
    everywhere: dict[str, Any] = {"ansible_ssh_common_args": options}
    secret = None
    if become:
        secret = folder / "vault-password"
        secret.write_text(f"{VAULT_PASSWORD}\n")
        secret.chmod(0o600)
        everywhere |= {"ansible_become": True, "ansible_become_password": _vaulted(PASSWORD)}
    groups = {name: {"hosts": dict.fromkeys(members)} for name, members in GROUPS.items()}
    tree = {"all": {"hosts": hosts, "vars": everywhere, "children": groups}}
    path = folder / "inventory.yml"
    path.write_text(yaml.dump(tree, Dumper=_Dumper, sort_keys=False))
    return Inventory(path, secret)


def _known(layout: Layout, host: str) -> str:
    public = layout.host_key(host).with_suffix(".pub").read_text().strip()
    return f"[{ADDRESSES[host]}]:{layout.port} {public}\n"


def _vaulted(text: str) -> _Vaulted:
    # Only here, since it takes a third of a second.
    from ansible.parsing.vault import VaultLib, VaultSecret

    return _Vaulted(VaultLib([("default", VaultSecret(VAULT_PASSWORD.encode()))]).encrypt(text).decode())
