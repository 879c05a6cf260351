"""Three hosts reached by ssh, on this machine, on loopback only, as root.

    python tests/hosts up         # brings them up, fresh, and writes inventories of them
    python tests/hosts down       # ends all of it and deletes its folder

`packages` installs what it needs by apt-get, without starting any service.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

# The package is this folder itself; scripts get the folder where it should be its parent.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from hosts import packages  # noqa: E402
from hosts.handle import Hosts  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["packages", "up", "down"])
    parser.add_argument(
        "--state",
        metavar="FOLDER",
        type=Path,
        default=Path(tempfile.gettempdir()) / "ripresa-hosts",
        help="where the hosts keep their files; another folder is another set (default: %(default)s)",
    )
    parser.add_argument("--shared", action="store_true", help="let them see this checkout and /tmp")
    arguments = parser.parse_args()
    try:
        if arguments.what == "packages":
            packages.install()
            return 0
        if arguments.what == "up" and (reason := packages.hindrance()):
            raise RuntimeError(reason)
        began = time.monotonic()
        hosts = Hosts(arguments.state, shared=arguments.shared)
        if arguments.what == "up":
            hosts.up()
            print(f"{' '.join(hosts.names)} ready after {time.monotonic() - began:.1f} s", file=sys.stderr)
            print(hosts.inventory(hosts.state / "inventory").path)
            print(hosts.inventory(hosts.state / "inventory-become", become=True).path)
        else:
            hosts.down()
    except RuntimeError as error:
        print(f"hosts: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
