"""The ways to tell: a command of the user's, and a webhook."""

import http.client
import os
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol

from ripresa.journal import records

COMMAND_S = 60.0
TRY_S = 10.0
WAITS_S = (1.0, 4.0)
"""Between the tries of a webhook."""


class Channel(Protocol):
    """One way to tell."""

    name: str

    def send(self, document: Mapping[str, Any]) -> str | None:
        """Send a document; returns in one line what went wrong, if anything."""


def wanted(told: Mapping[str, Any]) -> list[Channel]:
    """The channels of a configuration."""
    found: list[Channel] = []
    if told.get("command"):
        found.append(Command(told["command"]))
    if told.get("webhook"):
        found.append(Webhook(told["webhook"]))
    return found


class Command:
    """Runs a shell command with the document on its standard input and RIPRESA_EVENT in its environment."""

    name = "command"

    def __init__(self, line: str, seconds: float = COMMAND_S) -> None:
        self._line = line
        self._seconds = seconds

    def send(self, document: Mapping[str, Any]) -> str | None:
        try:
            process = subprocess.Popen(
                ["/bin/bash", "-c", self._line],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "RIPRESA_EVENT": str(document["event"])},
                start_new_session=True,
            )
        except OSError as error:
            return f"the command cannot start: {error.strerror}"
        try:
            process.communicate(records.encode(document) + b"\n", timeout=self._seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"the command did not end within {self._seconds:g} s and was killed"
        return f"the command ended with exit code {process.returncode}" if process.returncode else None


class Webhook:
    """Posts the document. The address may hold a secret, so no message has more of it than the host."""

    name = "webhook"

    def __init__(self, url: str, seconds: float = TRY_S, waits: tuple[float, ...] = WAITS_S) -> None:
        self._url = url
        self._seconds = seconds
        self._waits = waits
        try:
            self._host = urllib.parse.urlsplit(url).hostname or "?"
        except ValueError:
            self._host = "?"
        self._down = False
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, document: Mapping[str, Any]) -> str | None:
        # One that was down a moment ago gets a single try, so that a storm of events comes to an end.
        waits = () if self._down else self._waits
        problem = self._post(document)
        for wait in waits:
            if problem is None:
                break
            time.sleep(wait)
            problem = self._post(document)
        self._down = problem is not None
        if problem is None:
            return None
        tries = len(waits) + 1
        return f"{self._host}: {problem} ({tries} {'try' if tries == 1 else 'tries'})"

    def _post(self, document: Mapping[str, Any]) -> str | None:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "ripresa",
            "Idempotency-Key": str(document["id"]),
        }
        try:
            request = urllib.request.Request(self._url, records.encode(document), headers, method="POST")
            with self._opener.open(request, timeout=self._seconds):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            return f"HTTP {error.code}"
        except urllib.error.URLError as error:
            return _cause(error.reason)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return _cause(error)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without its document."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _cause(error: object) -> str:
    """What went wrong, without the address: only errors of the system are known not to repeat it."""
    if isinstance(error, OSError):
        return error.strerror or ("timed out" if isinstance(error, TimeoutError) else type(error).__name__)
    return type(error).__name__
