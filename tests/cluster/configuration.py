"""The configuration files of a cluster, as text."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from machines.ports import LOOPBACK

NODES = 4
CPUS = 8  # declared for each node, whatever the machine has
MEMORY_MB = 8000  # likewise
GPUS = 2  # fake ones, on the last node
PORTS = NODES + 3

ACCOUNT = "proj"
CLOSED_ACCOUNT = "closed"  # exists, but not for root
# Limits of each quality of service. A job beyond those of `small` waits for ever; `strict` refuses it.
QOS = {
    "small": ("MaxTRESPerJob=cpu=2", "MaxWall=10"),
    "strict": ("MaxTRESPerJob=cpu=2", "MaxWall=10", "Flags=DenyOnLimit"),
    "urgent": ("Priority=1000",),
}


@dataclass(frozen=True)
class Layout:
    """Where a cluster keeps its files, and its numbers.

    Names of nodes, and with them those of cgroups, contain the port, so they differ between the clusters of a
    machine.
    """

    state: Path
    port: int
    password: str

    @property
    def name(self) -> str:
        return f"c{self.port}"

    @property
    def head(self) -> str:
        """Host name of the machine with slurmctld and slurmdbd."""
        return f"{self.name}head"

    @property
    def nodes(self) -> list[str]:
        return [f"{self.name}n{number}" for number in range(1, NODES + 1)]

    @property
    def database_port(self) -> int:
        return self.port + 2

    def node_port(self, node: str) -> int:
        return self.port + 3 + self.nodes.index(node)

    @property
    def ports(self) -> range:
        """All that it listens on: slurmctld, slurmdbd, the database, the nodes."""
        return range(self.port, self.port + PORTS)

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.run / "munge.socket"

    def save(self) -> None:
        values = asdict(self)
        del values["state"]
        (self.state / "cluster.json").write_text(json.dumps(values))

    @classmethod
    def load(cls, state: Path) -> "Layout | None":
        """The layout that was saved there, if one was."""
        try:
            values = json.loads((state / "cluster.json").read_text())
        except FileNotFoundError:
            return None
        return cls(state, **values)


def hosts(layout: Layout) -> str:
    """The machine's own /etc/hosts, and the cluster's names."""
    own = Path("/etc/hosts").read_text() if Path("/etc/hosts").exists() else ""
    return "".join(f"{LOOPBACK} {name}\n" for name in (layout.head, *layout.nodes)) + own


# Waits are as short as SLURM allows without taking a busy machine for a dead one. Requeued jobs are held back
# until their credentials expire.
DEFAULTS = {
    "AccountingStorageEnforce": "associations,limits,qos",
    "AccountingStorageTRES": "gres/gpu",
    "AccountingStoreFlags": "job_comment",
    "AuthType": "auth/munge",
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
    "CredType": "cred/munge",
    "EnforcePartLimits": "NO",
    "GresTypes": "gpu",
    "InactiveLimit": "0",
    "JobAcctGatherFrequency": "task=2",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobRequeue": "1",
    "KillWait": "5",
    "MailProg": "/bin/true",
    "MaxArraySize": "1001",
    "MaxJobCount": "10000",
    "MessageTimeout": "10",
    "MinJobAge": "300",
    "MpiDefault": "none",
    "OverTimeLimit": "0",
    "PreemptMode": "REQUEUE",
    "PreemptType": "preempt/partition_prio",
    "PriorityType": "priority/multifactor",
    "PriorityWeightQOS": "1000",
    "ProctrackType": "proctrack/cgroup",
    "ReturnToService": "2",
    "SchedulerParameters": "batch_sched_delay=1,bf_interval=2,sched_interval=2,sched_min_interval=100000",
    "SchedulerType": "sched/backfill",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "SlurmctldTimeout": "30",
    "SlurmdParameters": "config_overrides",
    "SlurmdTimeout": "12",
    "SlurmdUser": "root",
    "SlurmUser": "root",
    "SwitchType": "switch/none",
    "TaskPlugin": "task/cgroup",
}

PARTITIONS = {
    "cpu": "Nodes={plain} Default=YES MaxTime=INFINITE PriorityTier=10",
    "gpu": "Nodes={gpu} MaxTime=INFINITE PriorityTier=10",
    "short": "Nodes={plain} MaxTime=5 MaxMemPerNode=1000 PriorityTier=10",
    # Its jobs give way, requeued, to those of `cpu` and `short`.
    "preempt": "Nodes={plain} MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE",
}


def slurm_conf(layout: Layout, changes: dict[str, str] | None = None) -> str:
    """slurm.conf, with other values for some keys; an empty value leaves a key out."""
    auth = f"socket={layout.munge_socket},cred_expire=10"
    own = {
        "ClusterName": layout.name,
        "SlurmctldHost": f"{layout.head}({LOOPBACK})",
        "SlurmctldPort": str(layout.port),
        "AuthInfo": auth,
        "SlurmctldPidFile": f"{layout.run}/slurmctld.pid",
        "SlurmdPidFile": f"{layout.run}/%n.pid",
        "SlurmctldLogFile": f"{layout.log}/slurmctld.log",
        "SlurmdLogFile": f"{layout.log}/%n.log",
        "StateSaveLocation": f"{layout.state}/slurmctld",
        "SlurmdSpoolDir": f"{layout.state}/spool/%n",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": LOOPBACK,
        "AccountingStoragePort": str(layout.port + 1),
        # Clients that ask slurmdbd directly look for munge here and nowhere else.
        "AccountingStoragePass": str(layout.munge_socket),
    }
    values = DEFAULTS | own | (changes or {})
    lines = [f"{key}={value}" for key, value in sorted(values.items()) if value]
    for node in layout.nodes:
        gres = f" Gres=gpu:fake:{GPUS}" if node == layout.nodes[-1] else ""
        lines.append(
            f"NodeName={node} NodeHostname={node} NodeAddr={LOOPBACK} Port={layout.node_port(node)}"
            f" CPUs={CPUS} Sockets=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY_MB}{gres}"
            " State=UNKNOWN"
        )
    where = {"plain": ",".join(layout.nodes[:-1]), "gpu": layout.nodes[-1]}
    for name, text in PARTITIONS.items():
        lines.append(
            f"PartitionName={name} {text.format(**where)} State=UP DefMemPerCPU=200 OverSubscribe=NO"
        )
    return "\n".join(lines) + "\n"


def cgroup_conf() -> str:
    """Memory is held to what a job asked for, and what goes beyond is killed by the kernel."""
    return (
        "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\nConstrainCores=no\n"
        "ConstrainRAMSpace=yes\nConstrainSwapSpace=no\nConstrainDevices=no\nAllowedRAMSpace=100\nMinRAMSpace=20\n"
    )


def gres_conf(layout: Layout) -> str:
    """GPUs have to be files; these are made as twins of /dev/null."""
    return f"NodeName={layout.nodes[-1]} Name=gpu Type=fake File={layout.state}/gpu[0-{GPUS - 1}]\n"


def slurmdbd_conf(layout: Layout) -> str:
    values = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket},cred_expire=10",
        "CommunicationParameters": "NoInAddrAny",
        "DbdHost": layout.head,
        "DbdAddr": LOOPBACK,
        "DbdPort": str(layout.port + 1),
        "SlurmUser": "root",
        "LogFile": f"{layout.log}/slurmdbd.log",
        "PidFile": f"{layout.run}/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": LOOPBACK,
        "StoragePort": str(layout.database_port),
        "StorageUser": "slurm",
        "StoragePass": layout.password,
        "StorageLoc": "accounting",
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())
