"""Three hosts reached by ssh, on this machine, for tests: see docs/hosts.md, "Test hosts"."""

from hosts.handle import Hosts

__all__ = ["Hosts"]
