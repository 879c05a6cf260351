"""Starts pending jobs where there is room and notes how they end: one process for each folder."""

import os
import signal
import subprocess
import sys
import time

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from fake_slurm.formats import expand
from fake_slurm.jobs import NO_OUTPUT, annihilate, bring_to_an_end, kill, log_path, processes, requeue
from fake_slurm.store import ENDED, Job, Store

TICK = 0.25  # s between looks at limits and at times to begin
SIGNALS = {signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM}


class Memory(Store):
    """The folder as the daemon sees it: it need not read again what it wrote itself."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.active: dict[str, Job] = {}
        self.changes = -1

    def saved(self, job: Job) -> None:
        if job["state"] in ENDED:
            self.active.pop(job["key"], None)
        else:
            self.active[job["key"]] = job

    def look(self) -> list[Job]:
        """The jobs that have not ended, in the order of their submission."""
        changes = os.stat(self.path("changes")).st_size
        if changes != self.changes:
            self.changes = changes
            self.active = {job["key"]: job for job in self.jobs(active=True)}
        return [dict(job) for job in self.active.values()]


class Daemon:
    """The jobs that run here, by process."""

    def __init__(self, store: Memory) -> None:
        self.store = store
        self.children: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}  # the job's key by process

    def serve(self) -> None:
        """Work until nothing is left. Signals wake it: a child ended, or a command changed something."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            with self.store.lock():
                self.reap()
                active = self.store.look()
                if not active and not self.children:
                    os.unlink(self.store.path("daemon.json"))
                    return
                for job in active:
                    self.enforce(job)
                self.start(active)
            woken = signal.sigtimedwait(SIGNALS, TICK)
            if woken and woken.si_signo == signal.SIGTERM:
                return

    # --- beginnings ---

    def start(self, active: list[Job]) -> None:
        """Start what may start, and give the rest a reason."""
        settings = self.store.settings
        free = {name: settings["cpus"] for name in settings["nodes"] if name not in settings["down"]}
        running: dict[int, int] = {}  # tasks of each array
        unstarted: dict[int, int] = {}
        for job in active:
            unstarted[job["array"]] = unstarted.get(job["array"], 0) + (job["start"] is None)
            if job["pid"]:
                free[job["node"]] = free.get(job["node"], 0) - job["cpus"]
                running[job["array"]] = running.get(job["array"], 0) + 1
        for job in active:
            if job["state"] != "PENDING" or job["pid"] or job["stuck"]:
                continue
            if job["reason"] == "Resources" and not any(number > 0 for number in free.values()):
                continue  # it is looked at again with thousands of others each time one ends
            wanted = set(expand(job["nodelist"]) or free) - set(expand(job["exclude"]))
            roomy = [name for name in free if name in wanted and free[name] >= job["cpus"]]
            reason = self.waits_for(job)
            if reason is None and job["throttle"] and running.get(job["array"], 0) >= job["throttle"]:
                reason = "JobArrayTaskLimit"
            if reason is None and not roomy:
                reason = "Resources" if wanted & set(free) else "ReqNodeNotAvail"
            if reason is not None:
                if job["reason"] != reason:
                    self.store.save({**job, "reason": reason})
                continue
            node = max(roomy, key=lambda name: free[name])
            free[node] -= job["cpus"]
            running[job["array"]] = running.get(job["array"], 0) + 1
            # The last task of an array to start keeps the array's own id.
            if job["array"] is not None and not job["restarts"] and unstarted[job["array"]] > 1:
                job["id"] = self.store.numbers(1)[0]
            unstarted[job["array"]] -= 1
            self.launch(job, node)

    def waits_for(self, job: Job) -> str | None:
        """Why a job may not start even if there is room."""
        if job["held"]:
            return job["held"]
        if job["begin"] and job["begin"] > time.time():
            return "BeginTime"
        kind, _, ids = (job["dependency"] or "").partition(":")
        others = [other for other in self.store.jobs() if str(other["id"]) in ids.split(":")] if ids else []
        if any(other["state"] not in ENDED for other in others):
            return "Dependency"
        good = {"afterok": {"COMPLETED"}, "afternotok": ENDED - {"COMPLETED"}}.get(kind, ENDED)
        return "DependencyNeverSatisfied" if any(other["state"] not in good for other in others) else None

    def launch(self, job: Job, node: str) -> None:
        """Start the batch script of a job in a session of its own."""
        job.update(state="RUNNING", reason="None", node=node, start=time.time(), end=None, ending=None)
        try:
            flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if job["append"] else os.O_TRUNC)
            output = os.open(log_path(job, job["output"]), flags, 0o644)
            error = os.open(log_path(job, job["error"]), flags, 0o644) if job["error"] else output
        except OSError:
            return self.end(
                job, "FAILED", reason="JobLaunchFailure", code=0, number=NO_OUTPUT, batch="CANCELLED"
            )
        folder = job["chdir"]
        if not os.path.isdir(folder):
            words = f"couldn't chdir to `{folder}': No such file or directory: going to /tmp instead"
            os.write(error, f"slurmstepd: error: {words}\n".encode())
            folder = "/tmp"
        try:
            process = subprocess.Popen(
                [job["script"], *job["arguments"]],
                cwd=folder,
                env={**self.store.read(job["environment"], {}), **variables(self.store, job)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=error,
                start_new_session=True,
                preexec_fn=_as_from_a_shell,  # noqa: PLW1509 (there is one thread)
            )
        except OSError as trouble:
            os.write(error, f"slurmstepd: error: execve(): {job['script']}: {trouble.strerror}\n".encode())
            return self.end(job, "FAILED", reason="NonZeroExitCode", code=127)
        finally:
            os.close(output)
            if error != output:
                os.close(error)
        job["pid"] = process.pid
        self.children[process.pid] = job["key"], process
        self.store.save(job)
        return None

    # --- ends ---

    def reap(self) -> None:
        """Note how processes ended. One whose job was started anew meanwhile says nothing any more."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            key, process = self.children.pop(pid)
            process.returncode = status  # or subprocess would wait for it when it tidies up
            job = self.store.load(key)
            if job["pid"] != pid:
                continue
            code, number = (os.WEXITSTATUS(status), 0) if os.WIFEXITED(status) else (0, os.WTERMSIG(status))
            if status:  # what is left of a job dies with its script; after a good end there is nothing
                annihilate(self.store, job)
            job["pid"] = None
            if job["ending"]:
                self.conclude(job)
            elif number:
                self.end(job, "FAILED", reason="JobLaunchFailure", number=number, batch="CANCELLED")
            elif code:
                self.end(job, "FAILED", reason="NonZeroExitCode", code=code)
            else:
                self.end(job, "COMPLETED")

    def conclude(self, job: Job) -> None:
        """The end that somebody else decided on: scancel, a limit, a requeue."""
        ending = job["ending"]
        if ending["state"] == "REQUEUED":
            return requeue(self.store, job, held=ending.get("held"), state=ending.get("shown", "PENDING"))
        return self.end(
            job,
            ending["state"],
            ending.get("detail", ""),
            ending.get("reason", "None"),
            batch="CANCELLED",
            step=15,
        )

    def end(
        self,
        job: Job,
        state: str,
        detail: str = "",
        reason: str = "None",
        code: int = 0,
        number: int = 0,
        batch: str | None = None,
        step: int | None = None,
    ) -> None:
        steps = [["batch", batch or state, code, number if step is None else step], *job["steps"]]
        if any(entry[1] == "OUT_OF_MEMORY" for entry in job["steps"] if entry[0] == "batch"):
            steps = steps[1:]
        job.update(
            state=state, detail=detail, reason=reason, exit=[code, number], end=time.time(), steps=steps
        )
        job.update(pid=None, ending=None)
        self.store.save(job)

    def enforce(self, job: Job) -> None:
        """Time limits, the warning ahead of them, and KILL for what TERM did not end."""
        if not job["pid"]:
            return
        settings, elapsed = self.store.settings, time.time() - job["start"]
        if job["ending"]:
            if time.time() - job["ending"]["time"] > settings["kill_wait"]:
                annihilate(self.store, job)
            return
        if job["limit"] is None:
            return
        limit = job["limit"] * settings["minute"]
        if job["warning"] and elapsed > limit - job["warning"][1] * settings["minute"] / 60:
            kill([job["pid"]] if job["warning"][2] else processes(self.store, job), job["warning"][0])
            self.store.save({**job, "warning": None})
        elif elapsed > limit:
            bring_to_an_end(self.store, job, {"state": "TIMEOUT", "reason": "TimeLimit"})


def variables(store: Store, job: Job) -> dict[str, str]:
    """The environment that SLURM adds."""
    found = {
        "FAKE_SLURM": store.folder,
        "FAKE_SLURM_INSTANCE": f"{job['key']}.{job['restarts']}",
        "SLURM_CLUSTER_NAME": "fake",
        "SLURM_CPUS_ON_NODE": job["cpus"],
        "SLURM_JOBID": job["id"],
        "SLURM_JOB_ID": job["id"],
        "SLURM_JOB_ACCOUNT": job["account"],
        "SLURM_JOB_NAME": job["name"],
        "SLURM_JOB_NODELIST": job["node"],
        "SLURM_JOB_NUM_NODES": 1,
        "SLURM_JOB_PARTITION": job["partition"],
        "SLURM_JOB_QOS": job["qos"],
        "SLURM_JOB_UID": job["uid"],
        "SLURM_NODELIST": job["node"],
        "SLURM_NODEID": 0,
        "SLURM_PROCID": 0,
        "SLURM_SUBMIT_DIR": job["submitted_from"],
        "SLURMD_NODENAME": job["node"],
    }
    if "cpus-per-task" in job["options"]:
        found["SLURM_CPUS_PER_TASK"] = job["options"]["cpus-per-task"]
    if job["restarts"]:
        found["SLURM_RESTART_COUNT"] = job["restarts"]
    if job["array"] is not None:
        found.update(SLURM_ARRAY_JOB_ID=job["array"], SLURM_ARRAY_TASK_ID=job["task"])
        found.update(SLURM_ARRAY_TASK_COUNT=job["tasks"])
    return {name: str(value) for name, value in found.items()}


def _as_from_a_shell() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    Daemon(Memory(sys.argv[1])).serve()
