"""Where Snakemake's main loop needs help: to be woken up, to be stopped gently, not to be held up."""

import gc
import signal
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ripresa.journal import clock

LONGEST_SLEEP_S = 60.0
"""Sleep at most this long at a time, for timers stand still while a machine is suspended."""


def reevaluate(dag: Any) -> None:
    """Make Snakemake select jobs again.

    There is no public way, so this uses a private one, and nothing else here does; a test fails when
    Snakemake changes it.
    """
    dag.workflow.scheduler._schedule_reevalutation(0)


def running(dag: Any) -> Container[Any]:
    """The jobs that Snakemake has started and not yet seen the end of."""
    jobs: Container[Any] = dag.workflow.scheduler.running
    return jobs


class Alarm:
    """Calls ``wake`` at the earliest time asked for. At most one timer is pending, and it never keeps
    the process alive."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._timer: threading.Timer | None = None
        self._at = 0.0

    def set(self, at: float) -> None:
        """Wake up at a time by `clock.steady`, or before."""
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._at = at
        self._timer = threading.Timer(min(max(0.0, at - clock.steady()), LONGEST_SLEEP_S), self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        # First of all: who is woken up may set the alarm again before this thread is gone.
        self._timer = None
        self._wake()


class _Draining:
    """A signal handler that calls another one from a thread of its own."""

    def __init__(self, original: Callable[[int, FrameType | None], Any]) -> None:
        self._original = original

    def __call__(self, number: int, frame: FrameType | None) -> None:
        threading.Thread(target=self._original, args=(number, frame), daemon=True).start()


@contextmanager
def no_collection() -> Iterator[None]:
    """Put off Python's garbage collector: a pass over Snakemake's jobs takes 80 ms for 2,000 of them, and
    while jobs are selected those that end cannot even say so."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def drain_on_term() -> None:
    """Let TERM end the run once its running jobs are done, whenever it arrives.

    Snakemake's own handler takes a lock which the very thread it interrupts may hold (it does while
    jobs are selected), and then the run hangs for ever. From another thread the handler just waits.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    original = signal.getsignal(signal.SIGTERM)
    if callable(original) and not isinstance(original, _Draining):
        signal.signal(signal.SIGTERM, _Draining(original))
