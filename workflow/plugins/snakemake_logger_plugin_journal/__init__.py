"""Snakemake logger plugin ``journal``: writes the events of a run and shows how the run is doing.

The handler only tells a record's meaning to the other modules: `board` knows how things stand,
`chronicle` writes the run's own events, `view` puts lines and the live view on the terminal.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from snakemake.logging import DefaultFilter, get_event
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from ripresa.journal import phases, publish, records
from ripresa.journal.paths import Run
from snakemake_logger_plugin_journal import plan
from snakemake_logger_plugin_journal.board import Board, Job
from snakemake_logger_plugin_journal.chronicle import Chronicle, Follower
from snakemake_logger_plugin_journal.view import Lines, LiveLines

_REFRESH_S = 0.5
_STOPS = {
    "Will exit after finishing currently running jobs (scheduler).": "drain",
    "Terminating processes on user request, this might take some time.": "cancel",
}
_RESTART = re.compile(r"Trying to restart job (\d+)\.")


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    view: str = field(
        default="auto",
        metadata={
            "help": "How to show a run: live (needs a terminal), plain lines, Snakemake's own output, "
            "or auto (live on a terminal, else plain).",
            "choices": ["auto", "live", "plain", "snakemake"],
            "env_var": False,
            "required": False,
        },
    )


class LogHandler(LogHandlerBase):
    """Follows one invocation of Snakemake. Dry runs are left to Snakemake's own output."""

    def __post_init__(self) -> None:
        common = self.common_settings
        wanted = getattr(self.settings, "view", "auto")
        self._shows = not common.dryrun and wanted != "snakemake"
        self._shown = DefaultFilter(
            common.quiet, common.debug_dag, common.verbose, common.dryrun, common.printshellcmds
        )
        self._board = Board()
        self._run: Run | None = None
        self._chronicle: Chronicle | None = None
        self._follower: Follower | None = None
        self._failed = False
        self._started = False
        self._stop = threading.Event()
        self._lines: Lines | None = None
        if self._shows:
            live = wanted in ("auto", "live") and LiveLines.possible(sys.stderr, common)
            self._lines = (LiveLines if live else Lines)(sys.stderr, self._board, common)
        self._takers: dict[LogEvent | None, Callable[[logging.LogRecord, Lines | None], bool]] = {
            None: self._message,
            LogEvent.WORKFLOW_STARTED: self._workflow_started,
            LogEvent.RUN_INFO: self._job_stats,
            LogEvent.JOB_STARTED: self._jobs_started,
            LogEvent.GROUP_INFO: _replaced,
            LogEvent.JOB_INFO: self._job_info,
            LogEvent.JOB_FINISHED: self._job_finished,
            LogEvent.PROGRESS: self._progress,
            LogEvent.JOB_ERROR: self._job_error,
            LogEvent.ERROR: self._error,
        }

    @property
    def writes_to_stream(self) -> bool:
        return self._shows

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True  # quietness concerns what is shown, not what is written to the journal

    @property
    def has_formatter(self) -> bool:
        return True

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: logging.LogRecord) -> None:
        if self._stop.is_set():
            return
        try:
            if self.common_settings.dryrun:
                plan.note(record)
            else:
                self._take(record)
        except OSError:
            self._lines = None  # the terminal is gone; the run and its journal go on
        except Exception:
            self.handleError(record)

    def _take(self, record: logging.LogRecord) -> None:
        """Every method below takes one kind of record and returns whether Snakemake's own text is wanted."""
        lines = self._lines if self._lines and self._shown.filter(record) else None
        take = self._takers.get(get_event(record), _as_it_is)
        wanted = take(record, lines)
        if lines and (wanted or self.common_settings.verbose):
            lines.verbatim(record)

    def _workflow_started(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        """Note which run this is, before any of its jobs can write an event."""
        directory = os.environ.get("RIPRESA_RUN")
        if directory:
            self._run = Run(directory)
            self._chronicle = Chronicle(self._run, os.environ.get("RIPRESA_SESSION", ""))
            self._follower = Follower(self._run.events)
            if self._lines:
                os.environ["RIPRESA_LOGGER"] = "journal"  # guards leave telling of failures to it
        return True

    def _job_stats(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        self._board.total = int(getattr(record, "stats", {}).get("total", 0))
        return True

    def _start(self) -> None:
        """Scheduling begins: by now the hooks have passed, so no other controller has the run."""
        if self._started:
            return
        self._started = True
        self._board.start()
        if self._follower:
            self._board.recall(self._follower.history())
        if self._run:
            self._board.phases = phases.load(self._run, os.environ.get("RIPRESA_SESSION", ""))
        if self._chronicle:
            first = self._board.phases.first if self._board.phases else None
            self._chronicle.start(self._board.total, first)
        if self._board.phases:
            self._board.phases.start()
        if self._board.phases or isinstance(self._lines, LiveLines):
            threading.Thread(target=self._refresh, name="journal view", daemon=True).start()

    def _jobs_started(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        self._failed = False
        self._start()
        return False

    def _job_info(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        told = vars(record)
        output = told.get("output") or []
        target = self._run.target_of(output[0]) if self._run and output else None
        name = target or (output[0] if output else told["rule_name"])
        self._board.begin(
            told["jobid"],
            Job(name, target, (told.get("shellcmd") or "").strip(), record.created, rule=told["rule_name"]),
        )
        if self._board.phases:
            self._board.phases.begin(told["rule_name"], name)
        return bool(self.common_settings.printshellcmds or told.get("rule_msg"))

    def _job_finished(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        self._failed = False
        self._catch_up()  # its time is from when its command began, not from when it was to wait for a host
        job = self._board.finish(vars(record)["job_id"])
        if job and self._board.phases:
            self._board.phases.finish(job.rule, job.name)
        if job and lines:
            lines.done(job, record.created)
        if job and job.target and self._run:
            publish.discard(self._run, job.target)
        return False

    def _progress(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        self._board.done, self._board.total = vars(record)["done"], vars(record)["total"]
        return False

    def _error(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        """An error of Snakemake; or of a job's command, followed by the record of the job's failure."""
        self._catch_up()
        message = record.getMessage()
        job = self._board.job_of_command(message)
        if job and self._explained(job):
            return False
        self._failed = True
        if self._chronicle and self._started:
            self._chronicle.error(getattr(record, "exception", None), message)
        return True

    def _job_error(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        self._catch_up()
        job = self._board.running.get(vars(record)["jobid"])
        explained = job is not None and self._explained(job)
        self._board.fail(vars(record)["jobid"])
        if job and self._board.phases:
            failure = self._board.failures.get(job.name) if explained else None
            given_up = failure is not None and failure.failure_class != "cancelled"
            self._board.phases.fail(job.rule, job.name, given_up=given_up)
        if job and explained and lines:
            log = self._run.log(job.name, job.attempt) if self._run and job.attempt else None
            lines.failed(job, log if self.common_settings.show_failed_logs else None)
        return not explained

    def _explained(self, job: Job) -> bool:
        """Whether the guard of a failed job has said why, now or (if it refuses the unit) before."""
        if self._run and job.target and not job.told:
            try:
                last = records.last(self._run.attempts(job.target)) or {}
            except OSError:
                last = {}
            self._board.remember(job, last, os.environ.get("RIPRESA_SESSION"))
        return job.told

    def _message(self, record: logging.LogRecord, lines: Lines | None) -> bool:
        """A message without a type; a few have a meaning here."""
        message = record.getMessage()
        if message in _STOPS:
            if self._board.stopping:
                return False  # said once already
            self._board.stopping = _STOPS[message]
            if self._chronicle and self._started:
                self._chronicle.stop_requested(_STOPS[message])
        restart = _RESTART.fullmatch(message)
        if restart:
            return not self._board.told_of_job(int(restart[1]))
        if message == "Select jobs to execute...":
            self._start()
            return False
        return True

    def _catch_up(self) -> None:
        """Take in what the guards have written."""
        if self._follower and self._started:
            for event in self._follower.news():
                self._board.apply(event)

    def _refresh(self) -> None:
        while not self._stop.wait(_REFRESH_S):
            self.acquire()
            try:
                if self._stop.is_set():
                    return
                if self._board.phases:
                    self._board.phases.tick()
                if isinstance(self._lines, LiveLines):
                    self._catch_up()
                    self._lines.draw()
            except OSError:
                self._lines = None
            finally:
                self.release()

    def close(self) -> None:
        """The end of the invocation, however it came about; also called at the exit of the process."""
        self.acquire()
        try:
            if not self._stop.is_set():
                self._stop.set()
                self._end()
        finally:
            self.release()
        super().close()

    def _end(self) -> None:
        if not self._started:
            return
        self._catch_up()
        failed = self._failed or sys.exc_info()[0] is not None
        if self._board.phases:
            self._board.phases.end(self._board.stopping)
        if self._chronicle:
            self._chronicle.end(self._board, "failed" if failed else "ok")
        if self._lines:
            try:
                self._lines.end(failed)
            except OSError:
                self._lines = None


def _as_it_is(record: logging.LogRecord, lines: Lines | None) -> bool:
    return True


def _replaced(record: logging.LogRecord, lines: Lines | None) -> bool:
    return False
