"""Names, addresses and files of a set of hosts, and the files in their /etc, as text."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

NAMES = ("h1", "h2", "h3")
ADDRESSES = {name: f"127.0.0.{number}" for number, name in enumerate(NAMES, start=2)}
USER = "bench"  # who needs a password to become root
USER_ID = 2000
PASSWORD = "correct horse"
# Made by `openssl passwd -6`. It opens nothing: sshd takes keys only.
PASSWORD_HASH = (
    "$6$aZnWoNhOky5D4DJR$TPxCwWGfA9pN2403l3JM/"
    "jY0e9zbmG7DBUIhVcpbCpFmWUGRVlLjOgnJ7a/hrrKPtwIPAU9LzIZmMF0.Dcu1p0"
)
HOME_MB = 64  # room that the homes of a host share


@dataclass(frozen=True)
class Layout:
    """Where a set of hosts keeps its files, and its numbers.

    ``port`` is where the wire to each host listens, on the address of the host; its sshd has the next port.
    """

    state: Path
    port: int
    shared: bool

    @property
    def sshd_port(self) -> int:
        return self.port + 1

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def key(self) -> Path:
        """The private key that every host accepts."""
        return self.state / "client" / "id_ed25519"

    def host_key(self, host: str, kind: str = "right") -> Path:
        return self.state / host / "keys" / kind

    def etc(self, host: str) -> Path:
        """What takes the place of files and folders in /etc of a host."""
        return self.state / host / "etc"

    def tools(self, host: str) -> Path:
        """What a host sees as /srv."""
        return self.state / host / "srv"

    def boot_id(self, host: str) -> Path:
        return self.state / host / "boot_id"

    def disk(self, host: str) -> Path:
        """The two file systems of a host, ``homes`` and ``var``, which only the keeper sees there."""
        return self.state / host / "disk"

    def save(self) -> None:
        values = asdict(self)
        del values["state"]
        (self.state / "hosts.json").write_text(json.dumps(values))

    @classmethod
    def load(cls, state: Path) -> "Layout | None":
        """The layout that was saved there, if one was."""
        try:
            values = json.loads((state / "hosts.json").read_text())
        except FileNotFoundError:
            return None
        return cls(state, **values)


def etc_files(layout: Layout, host: str) -> dict[str, tuple[int, str]]:
    """Mode and text of each file below `Layout.etc`, by its path there; without keys."""
    public = layout.key.with_suffix(".pub").read_text()
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    return {
        "passwd": (
            0o644,
            "root:x:0:0:root:/root:/bin/bash\n"
            "sshd:x:106:65534::/run/sshd:/usr/sbin/nologin\n"
            f"{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/bash\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        "shadow": (
            0o640,
            "".join(
                f"{user}:{secret}:19000:0:99999:7:::\n"
                for user, secret in (("root", "*"), ("sshd", "!"), (USER, PASSWORD_HASH), ("nobody", "*"))
            ),
        ),
        "group": (0o644, f"root:x:0:\ntty:x:5:\nshadow:x:42:\n{USER}:x:{USER_ID}:\nnogroup:x:65534:\n"),
        "hosts": (0o644, f"127.0.0.1 localhost\n{names}"),
        "sudoers.d/hosts": (0o440, f"Defaults lecture=never\n{USER} ALL=(ALL:ALL) ALL\n"),
        "ssh/sshd_config": (0o644, sshd_config(layout, host)),
        "ssh/authorized_keys/root": (0o644, public),
        f"ssh/authorized_keys/{USER}": (0o644, public),
    }


def sshd_config(layout: Layout, host: str) -> str:
    """Keys only, no PAM; all else as sshd has it by itself."""
    return (
        f"ListenAddress {ADDRESSES[host]}:{layout.sshd_port}\n"
        "HostKey /etc/ssh/host_key\n"
        "AuthorizedKeysFile /etc/ssh/authorized_keys/%u\n"
        "PermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\n"
        "UsePAM no\n"
        "PidFile none\n"
        "PrintMotd no\n"
        "PrintLastLog no\n"
        "Subsystem sftp internal-sftp\n"
    )
