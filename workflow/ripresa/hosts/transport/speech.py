"""What Ansible says while it runs a relay, as ansible-runner hears it."""

import re
from collections.abc import Callable
from typing import Any

HEAD = re.compile(r"^\[?(WARNING|ERROR)\]?[:!] *")
ANOTHER = re.compile(r"^(?:\[?[A-Z ]+\]?[:!] |PLAY|TASK|skipping:|fatal:|ok:|$)")


class Speech:
    """Takes the events of ansible-runner, and tells what a user must know of them.

    ``tell`` gets ``warning=TEXT``, and ``host=NAME, problem=TEXT`` for a host that Ansible gave up.
    ``problem`` is what ended Ansible, if it was more than that.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._kind = ""
        self._text: list[str] = []
        self._heard: list[str] = []
        self._hosts_failed = False
        self.problem: str | None = None

    def hear(self, event: dict[str, Any]) -> bool:
        """One event; False, as nothing of it shall be written to a disk."""
        if event.get("event") in {"runner_on_failed", "runner_on_unreachable"}:
            self._hosts_failed, data = True, event["event_data"]
            self._tell(host=data["host"], problem=_line(str(data["res"].get("msg", "failed"))))
        elif event.get("event") not in {"runner_on_ok", "playbook_on_stats"}:
            for line in (event.get("stdout") or "").splitlines():
                self._listen(line.rstrip())
        return False

    def end(self, exit_code: int | None) -> None:
        """Ansible has ended, by an error if not by hosts that failed, each of which has been told."""
        self._listen("")
        if exit_code and not self._hosts_failed:
            self.fail(
                self._heard[-1] if self._heard else f"ansible-playbook ended with exit code {exit_code}"
            )

    def fail(self, problem: str) -> None:
        """There is no relay, and why."""
        self.problem = _line(problem)

    def _listen(self, line: str) -> None:
        """A line of the terminal: Ansible breaks long texts, so one goes on until another begins."""
        head = HEAD.match(line)
        if head or ANOTHER.match(line):
            text = _line(" ".join(self._text))
            if text and self._kind == "WARNING":
                self._tell(warning=text)
            elif text:
                self._heard.append(text)
            self._kind, self._text = (head.group(1), [line[head.end() :]]) if head else ("", [])
        elif self._kind:
            self._text.append(line)


def _line(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())
