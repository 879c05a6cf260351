"""Commands on the hosts of an Ansible inventory, over the connections that Ansible has configured.

Whatever an inventory says of how to reach a host and whom to be there (addresses, ports, keys, jump hosts,
vaulted passwords, sudo) is Ansible's business and works as it does in a playbook. So the transport is a play
with one task: an action plugin, which has a host's connection ready and lends it to the controller.

    controller -- keeper -- ansible-runner -- ansible-playbook -- an action for each host -- ssh -- host
        `------------------- a Unix socket for each host -------------------'

The start of Ansible is paid once; after that a call costs what ssh needs over a connection that is there
already. Nothing here repeats a command: whether one may have begun is known and said (`Unreachable.sent`),
and what follows from that is the caller's decision.
"""

from ripresa.hosts.transport.controller import Transport
from ripresa.hosts.transport.patterns import Host, PatternError
from ripresa.hosts.transport.relay import Reply, Unreachable

__all__ = ["Host", "PatternError", "Reply", "Transport", "Unreachable"]
