"""The cluster as tests hold it: up and down, faults, and all that an administrator can ask and do."""

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, TypeVar

from cluster import configuration
from cluster.configuration import ACCOUNT, CLOSED_ACCOUNT, GPUS, LOOPBACK, PORTS, QOS, Layout
from machines import Daemon, Machine, ports
from machines.machine import ENVIRONMENT

ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
)  # fmt: skip
# Of the database: to be durable costs seconds, and is worth nothing here.
CARELESS = (
    "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync",
    "--innodb-doublewrite=OFF",
)  # fmt: skip
CGROUPS = Path("/sys/fs/cgroup")
T = TypeVar("T")


class Execution(NamedTuple):
    """One instance of a job, array task or step, as the accounting keeps it; a requeued job has several."""

    job: str
    name: str
    state: str  # the base state alone
    node: str


class Cluster:
    """Four nodes, their slurmctld and slurmdbd, in the folder ``state``; nothing runs before `up`.

    ``slurmctld``, ``slurmdbd`` and, by the names of the nodes, ``slurmd`` are daemons to be killed, stopped,
    frozen and started. ``environment`` is what a command needs that talks to this cluster.
    """

    def __init__(self, state: Path) -> None:
        self.state = state.resolve()
        known = Layout.load(self.state)
        self.layout = known or Layout(self.state, ports.free(PORTS), secrets.token_hex(8))
        layout = self.layout
        self.nodes = layout.nodes
        self.head = self._machine(layout.head)
        self.machines = {node: self._machine(node) for node in self.nodes}
        self._changes: dict[str, str] = {}
        self._daemons()

    def _machine(self, name: str) -> Machine:
        """One whose /etc/hosts and, where the machine has one at all, /etc/slurm are the cluster's."""
        etc = self.layout.etc
        binds = {etc / "hosts": "/etc/hosts"} | ({etc: "/etc/slurm"} if Path("/etc/slurm").is_dir() else {})
        steps = [f"mount --bind {shlex.quote(str(source))} {target}" for source, target in binds.items()]
        return Machine(name, self.layout.run / f"{name}.machine", steps)

    def _daemons(self) -> None:
        layout, run, log = self.layout, self.layout.run, self.layout.log
        slurm = {"SLURM_CONF": str(layout.conf)}
        munge = (
            "munged", "--force", f"--socket={layout.munge_socket}", f"--key-file={self.state}/munge/key",
            f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log", "--num-threads=4",
            f"--seed-file={self.state}/munge/seed",
        )  # fmt: skip
        self.munged = Daemon(
            self.head,
            munge,
            run / "munged.pid",
            log=log / "munged.out",
            ready=lambda: self._succeeds("munge", "-n", f"--socket={layout.munge_socket}"),
        )
        mariadb = (
            "setsid", "--fork", "mariadbd", "--no-defaults", "--user=root",
            f"--datadir={self.state}/database", f"--socket={run}/mariadb.socket",
            f"--pid-file={run}/mariadbd.pid", f"--bind-address={LOOPBACK}", f"--port={layout.database_port}",
            "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--skip-name-resolve",
            "--performance-schema=OFF", *CARELESS,
        )  # fmt: skip
        self.mariadbd = Daemon(
            self.head,
            mariadb,
            run / "mariadbd.pid",
            log=log / "mariadbd.log",
            ready=lambda: self._succeeds(
                "mariadb-admin", "--no-defaults", f"--socket={run}/mariadb.socket", "ping"
            ),
        )
        self.slurmdbd = Daemon(
            self.head,
            ("slurmdbd",),
            run / "slurmdbd.pid",
            log=log / "slurmdbd.out",
            environment=slurm,
            ready=lambda: self._answers(layout.port + 1, "sacctmgr", "-n", "show", "cluster"),
        )
        self.slurmctld = Daemon(
            self.head,
            ("slurmctld",),
            run / "slurmctld.pid",
            log=log / "slurmctld.out",
            environment=slurm,
            ready=lambda: self._answers(layout.port, "sinfo", "--noheader"),
        )
        self.slurmd = {
            node: Daemon(
                machine,
                ("slurmd", "-N", node),
                run / f"{node}.pid",
                log=log / f"{node}.out",
                environment=slurm,
                ready=lambda: True,
            )
            for node, machine in self.machines.items()
        }

    # -- up and down

    def up(self) -> None:
        """Bring up what does not run; what runs is left alone.

        Raises RuntimeError, with the end of the log of the daemon to blame.
        """
        if self.state.exists() and any(self.state.iterdir()) and not (self.state / "cluster.json").exists():
            raise RuntimeError(f"{self.state} is not empty, and what is in it is not a cluster")
        self._write()
        for machine in (self.head, *self.machines.values()):
            machine.power_on()
        self.munged.start(wait=0)
        if not (self.state / "database" / "mysql").is_dir():
            self._make_database()
        self.mariadbd.start(wait=0)
        self.munged.wait()
        self.mariadbd.wait()
        if self.slurmdbd.pid is None:
            self._grant()
        self.slurmdbd.start()
        if not self._run("sacctmgr", "-nP", "show", "qos", "small").strip():
            self._make_accounts()
        for daemon in self.slurmd.values():
            daemon.start(wait=0)
        self.slurmctld.start()
        self.wait_for_nodes()

    def down(self) -> None:
        """End every process of the cluster, jobs and what they left behind too, and delete its folder."""
        if Layout.load(self.state) is None:
            return
        for machine in (*self.machines.values(), self.head):
            machine.remove()
        for node in self.nodes:
            self._remove_cgroups(node)
        shutil.rmtree(self.state)

    def wait_for_nodes(self, nodes: Collection[str] = (), seconds: float = 60) -> None:
        """Wait until these nodes, or all, take jobs."""
        wanted = set(nodes or self.nodes)

        def ready() -> bool:
            with contextlib.suppress(subprocess.SubprocessError):
                lines = self._run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
                states = dict(line.split() for line in lines)
                return all(states.get(node) in ("idle", "mixed", "allocated") for node in wanted)
            return False

        self.wait_until(ready, seconds, lambda: self._run("sinfo", "-N", "-l"))

    def heal(self) -> None:
        """As after `up`: no jobs, every daemon alive, every node ready, no changed configuration."""
        for machine in self.machines.values():
            machine.power_on()
        for daemon in (self.munged, self.mariadbd, self.slurmdbd, *self.slurmd.values(), self.slurmctld):
            if daemon.pid is None:
                daemon.start()
            else:
                daemon.thaw()
        self.slurmdbd.wait()
        self.slurmctld.wait()
        if self._changes:
            self._changes = {}
            self._write()
            self._run("scontrol", "reconfigure")
        self._run("scancel", "--user=root", "--quiet", check=False)
        self.wait_until(lambda: not self.squeue("-h", "-o", "%i"), 60, self.squeue)
        for line in self._run("sinfo", "-h", "-N", "-o", "%N %T").splitlines():
            node, state = line.split()
            if state.startswith(("down", "drain", "fail")):
                self._run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.wait_for_nodes()

    # -- an administrator's commands

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command that shall meet this cluster: the caller's own, and SLURM_CONF."""
        return os.environ | {"SLURM_CONF": str(self.layout.conf)}

    def scontrol(self, *arguments: str) -> str:
        return self._run("scontrol", *arguments)

    def sacctmgr(self, *arguments: str) -> str:
        return self._run("sacctmgr", "-i", *arguments)

    def scancel(self, *arguments: str) -> str:
        return self._run("scancel", *arguments)

    def squeue(self, *arguments: str) -> str:
        return self._run("squeue", *arguments)

    def sacct(self, *arguments: str) -> str:
        return self._run("sacct", *arguments)

    def submit(self, script: str, *options: str, directory: Path | None = None) -> str:
        """Submit lines of bash by sbatch; returns the job id. The log goes to ``directory``, or nowhere."""
        output = () if directory else ("--output=/dev/null",)
        command = ["sbatch", "--parsable", *output, *options]
        return self._run(*command, given=f"#!/bin/bash\n{script}\n", directory=directory).strip()

    def change(self, **values: str) -> None:
        """Give keys of slurm.conf other values, or none with "", and let the daemons read it again.

        `heal` takes it back. A few keys need a restart of slurmctld besides, see `man slurm.conf`.
        """
        self._changes |= values
        self._write()
        self._run("scontrol", "reconfigure")

    # -- what became of jobs

    def state_of(self, job: str) -> str:
        """The base state of a job in slurmctld's eyes, e.g. "CANCELLED"; "" if it does not know it."""
        for word in self._run("scontrol", "-o", "show", "job", job, check=False).split():
            if word.startswith("JobState="):
                return word.partition("=")[2]
        return ""

    def node_of(self, job: str) -> str:
        """The node on which a job runs; "" if it does not run."""
        return self.squeue("-h", "-t", "running", "-j", job, "-o", "%N").strip()

    def executions(self, *jobs: str, steps: bool = False) -> list[Execution]:
        """Which jobs, or only these, ran where, in the order of their ids: every instance of every job."""
        options = ["--jobs", ",".join(jobs)] if jobs else ["--starttime", "now-1day"]
        options += [] if steps else ["--allocations"]
        lines = self.sacct("-nP", "--duplicates", *options, "-o", "JobID,JobName,State,NodeList").splitlines()
        rows = (line.split("|") for line in lines)
        return [Execution(job, name, state.split()[0], node) for job, name, state, node in rows]

    def wait(self, job: str, *states: str, seconds: float = 60) -> str:
        """Wait until a job has one of these states, or has ended; returns the state."""
        wanted = states or ENDED

        def state() -> str:
            now = self.state_of(job)
            return now if now in wanted else ""

        return self.wait_until(state, seconds, lambda: self.scontrol("show", "job", job))

    def wait_recorded(self, job: str, state: str, seconds: float = 30) -> None:
        """Wait until the accounting has an instance of a job, or one of its steps, in this state."""

        def recorded() -> bool:
            return any(one.state == state for one in self.executions(job, steps=True))

        self.wait_until(recorded, seconds, lambda: self.sacct("-D", "--jobs", job))

    # -- faults

    def lose(self, node: str) -> None:
        """Cut the power of a node: its slurmd and its jobs are gone at once, and nobody tells slurmctld."""
        self.machines[node].cut()

    def restore(self, node: str) -> None:
        """Start a node again that was lost or whose slurmd has ended, and wait until it takes jobs."""
        self.slurmd[node].start()
        self.wait_for_nodes([node])

    def end_after(self, job: str, seconds: float) -> None:
        """Move the time limit of a running job, of which SLURM takes note within half a minute of the end.

        A limit given at submission is a number of whole minutes.
        """
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))
        self.scontrol("update", f"jobid={job}", f"endtime={end}")

    def saved(self) -> None:
        """Have slurmctld write to disk what it knows of jobs, which takes it up to 7 s.

        It does so by itself within seconds of a submission or a change, but not of a start. Killed before, it
        comes back to an older state: a job that runs is pending again and started a second time. If the first
        instance is still there its node refuses, and is drained, and the job is held.
        """
        jobs = self.squeue("-h", "-r", "-o", "%i").split()
        if not jobs:
            return
        file, now = self.state / "slurmctld" / "job_state", time.time()
        self.scontrol("update", f"jobid={jobs[0]}", "admincomment=saved")
        self.wait_until(lambda: file.exists() and file.stat().st_mtime > now, 15, self.squeue)

    # -- inside

    def _write(self) -> None:
        layout = self.layout
        for folder in (
            layout.etc,
            layout.run,
            layout.log,
            *(self.state / name for name in ("munge", "slurmctld")),
        ):
            folder.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            (self.state / "spool" / node).mkdir(parents=True, exist_ok=True)
        # Jobs of other users, and munge, look at who may write where.
        self.state.chmod(0o755)
        (self.state / "munge").chmod(0o700)
        layout.save()
        key = self.state / "munge" / "key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(1024))
            key.chmod(0o400)
        for number in range(GPUS):
            if not (self.state / f"gpu{number}").exists():
                os.mknod(self.state / f"gpu{number}", 0o20666, os.makedev(1, 3))
        if not (layout.etc / "hosts").exists():
            (layout.etc / "hosts").write_text(configuration.hosts(layout))
        (layout.etc / "cgroup.conf").write_text(configuration.cgroup_conf())
        (layout.etc / "gres.conf").write_text(configuration.gres_conf(layout))
        dbd = layout.etc / "slurmdbd.conf"
        dbd.touch(mode=0o600)
        dbd.write_text(configuration.slurmdbd_conf(layout))
        replaced = layout.conf.with_suffix(".new")
        replaced.write_text(configuration.slurm_conf(layout, self._changes))
        replaced.replace(layout.conf)

    def _make_database(self) -> None:
        self._run(
            "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.state}/database",
            "--auth-root-authentication-method=socket", "--skip-test-db", *CARELESS,
        )  # fmt: skip

    def _grant(self) -> None:
        user = f"'slurm'@'{LOOPBACK}'"
        statements = (
            "CREATE DATABASE IF NOT EXISTS accounting;"
            f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{self.layout.password}';"
            f"GRANT ALL ON accounting.* TO {user};"
        )
        self._run("mariadb", "--no-defaults", f"--socket={self.layout.run}/mariadb.socket", given=statements)

    def _make_accounts(self) -> None:
        cluster, every = self.layout.name, ",".join(("normal", *QOS))
        self.sacctmgr("add", "cluster", cluster)
        lines = [
            *(f"add qos {' '.join((name, *limits))}" for name, limits in QOS.items()),
            f"add account {ACCOUNT},{CLOSED_ACCOUNT} cluster={cluster}",
            f"add user root account={ACCOUNT} cluster={cluster} qos={every} defaultqos=normal",
            f"modify user root where cluster={cluster} set defaultaccount={ACCOUNT}",
        ]
        # In one session, since most of a call is its start.
        self._run("sacctmgr", "-i", given="\n".join((*lines, "quit", "")))

    @staticmethod
    def _remove_cgroups(node: str) -> None:
        for top in CGROUPS.glob(f"*/slurm_{node}"):
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _run(
        self,
        *command: str,
        given: str = "",
        directory: Path | None = None,
        check: bool = True,
        seconds: float = 60,
    ) -> str:
        """Standard output of a command. Raises CalledProcessError, with all that it said as a note."""
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            cwd=directory or self.state,
            env=self.environment | {"PATH": f"{os.environ['PATH']}:{ENVIRONMENT['PATH']}"},
            timeout=seconds,
        )
        if check and done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(f"{done.stdout}{done.stderr}".strip())
            raise error
        return done.stdout

    def _succeeds(self, *command: str) -> bool:
        """Whether a command succeeds within a few seconds."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._run(*command, seconds=5)
            return True
        return False

    def _answers(self, port: int, *command: str) -> bool:
        """Whether somebody listens on a port and a command succeeds, which alone would try for seconds."""
        return ports.listening(port) and self._succeeds(*command)

    @staticmethod
    def wait_until(condition: Callable[[], T], seconds: float, said: Callable[[], str]) -> T:
        """The first true value of a condition; RuntimeError with what ``said`` tells if none comes."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                raise RuntimeError(f"not within {seconds:.0f} s:\n{said()}")
            time.sleep(0.1)
        return value
