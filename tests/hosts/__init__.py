"""Three hosts reached by ssh, on this machine, for tests.

    def test_what_is_detached_outlives_sshd(hosts, tmp_path):
        inventory = hosts.inventory(tmp_path)           # an ordinary one: inventory.path
        ...
        hosts.sshd_down("h1")                           # and every other fault of `Hosts`
        assert "sleep 600" in hosts.processes("h1")

The fixture alone marks a test `hosts` and `slow`; `make hosts` runs these tests. The hosts are booted anew
after each test. A host is a set of kernel namespaces: it has a name, process ids, a boot id, users, an
sshd, and disks in memory of its own. With the controller it shares the kernel, so its clock and network,
and, read-only, the system; nothing else, unless the hosts are `shared_hosts`. In front of each sshd is a
wire of ours, which loses packets and connections when it is told to.

What a process sees of it is as on a real host with these exceptions: memory and processors are those of the
machine, as are `uptime` and `/sys`; addresses are on loopback (127.0.0.2 to 127.0.0.4), where every port of
one host is also taken for the others if it is bound on all addresses; and a power cut loses no byte that
was written to a disk.
"""

from hosts.handle import Hosts

__all__ = ["Hosts"]
