"""Ordinary workflows on real hosts: behind another host, as another user, and with a shared file system."""

import os
import subprocess
import sys

import yaml


def call(folder, inventory, snakefile, **environment):
    """Call snakemake on a workflow without a guard; returns what it said."""
    (folder / "Snakefile").write_text(snakefile)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--executor", "ansible", "--jobs", "4", "--nolock",
         "--ansible-inventory", str(inventory), "--workflow-profile", "none"],
        cwd=folder, env=clean | environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


WHO = """
rule who:
    output: "who.txt"
    resources: host="h2"
    shell: "hostname > {output}; id -un >> {output}"
"""


def test_a_host_behind_another(hosts, tmp_path):
    inventory = hosts.inventory(tmp_path / "inventory").path
    tree = yaml.safe_load(inventory.read_text())
    jump, options = tree["all"]["hosts"]["h1"], tree["all"]["vars"]["ansible_ssh_common_args"]
    through = f"ssh -i {jump['ansible_ssh_private_key_file']} -p {jump['ansible_port']} {options}"
    through += f" -W %h:%p root@{jump['ansible_host']}"
    tree["all"]["hosts"]["h2"]["ansible_ssh_common_args"] = f'{options} -o ProxyCommand="{through}"'
    inventory.write_text(yaml.safe_dump(tree))
    call(tmp_path, inventory, WHO)
    assert (tmp_path / "who.txt").read_text() == "h2\nroot\n"


def test_a_user_who_becomes_root_by_a_vaulted_password(hosts, tmp_path):
    inventory, secret = hosts.inventory(tmp_path / "inventory", become=True)
    call(tmp_path, inventory, WHO, ANSIBLE_VAULT_PASSWORD_FILE=str(secret))
    assert (tmp_path / "who.txt").read_text() == "h2\nroot\n"
    assert hosts.files("h2") == []


SHARED = """
rule all:
    input: "a.txt", "b.txt"

rule shell:
    output: "a.txt"
    resources: host="h1"
    shell: "hostname > {output}; pwd >> {output}"

rule run:
    input: "a.txt"
    output: "b.txt"
    resources: host="h2"
    run:
        import platform
        open(output[0], "w").write(platform.node() + open(input[0]).read())
"""


def test_where_the_file_system_is_shared_nothing_is_staged(shared_hosts, tmp_path):
    inventory = shared_hosts.inventory(tmp_path / "inventory").path
    tree = yaml.safe_load(inventory.read_text())
    tree["all"]["vars"]["ripresa_shared"] = True
    inventory.write_text(yaml.safe_dump(tree))
    call(tmp_path, inventory, SHARED)
    assert (tmp_path / "a.txt").read_text() == f"h1\n{tmp_path}\n"
    assert (tmp_path / "b.txt").read_text() == f"h2h1\n{tmp_path}\n"
