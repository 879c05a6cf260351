"""Calls to the agent on one host: its bundle is installed where that is missing, files go in pieces."""

import base64
import functools
import json
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ripresa.hosts import bundle
from ripresa.hosts.transport import Host, Reply, Unreachable
from ripresa.hosts.work import File

_PIECE = 4 << 20
"""Files travel in pieces of so many bytes, which Ansible holds in memory."""
_SMALL = 64 << 10
"""A file up to this size is sent without asking whether it is there."""
_CALL_S = 60.0
_BYTES_S = 256 << 10
"""The slowest network that a piece is given time for."""
_CLEANINGS = 2
"""How often the last call is made: the connection may have ended since the one before."""
_MARK = "ripresa-answer"

Answer = dict[str, Any]


class Refused(Exception):
    """The host answers, but cannot be used: ``failure_class``, and in one line what is wrong.

    ``sent``: the agent may have begun with what it was asked for; ``whole``: nothing can be had of the host,
    not just this operation.
    """

    def __init__(self, failure_class: str, evidence: str, *, sent: bool = False, whole: bool = False) -> None:
        super().__init__(evidence)
        self.failure_class = failure_class
        self.evidence = evidence
        self.sent = sent
        self.whole = whole


class Calls(Protocol):
    """What carries calls: a `ripresa.hosts.transport.Transport`."""

    def call(self, host: str, command: str, data: bytes = b"", *, timeout_s: float) -> Reply:
        """Run a command on a host; raises Unreachable."""


class Client:
    """The agent of one host, for one run. May be used by several threads."""

    def __init__(self, transport: Calls, host: Host, run: str) -> None:
        self.host = host
        self._transport = transport
        self._run = run
        self._root = str(host.variables.get("ripresa_dir", "~/.ripresa"))
        self._there: set[str] = set()
        self._calls = threading.Condition()
        self._under_way = 0
        self._closed = False

    def close(self) -> None:
        """Make no further call, but `clean`."""
        with self._calls:
            self._closed = True

    def clean(self, patience_s: float) -> str | None:
        """Remove all of this run from the host, ending what may still run there; why not, if not.

        It is the last call: one beside it would bring back what is removed.
        """
        self.close()
        with self._calls:
            if not self._calls.wait_for(lambda: self._under_way == 0, patience_s):
                return "an earlier call has no answer yet"
        problem = None
        for _ in range(_CLEANINGS):
            try:
                result = self._exchange([{"op": "clean", "kill": True}], {}, 0.0, None, b"")["done"][0]
            except Refused as error:
                return error.evidence
            except Unreachable as error:
                problem = error.evidence
                continue
            return str(result["evidence"]) if "error" in result else None
        return problem

    def exchange(
        self,
        do: Sequence[Mapping[str, Any]],
        follow: Mapping[str, str] | None = None,
        *,
        wait_s: float = 0.0,
        door: str | None = None,
        payload: bytes = b"",
    ) -> Answer:
        """Have operations done in order, then wait for one of the followed units to end.

        Another call can end the wait by an operation ``ring`` with the name of its ``door``, 24 hex digits.

        Raises Unreachable where there is no connection, Refused where the host cannot serve.
        """
        with self._calls:
            if self._closed:
                raise Unreachable("network", "the link to the host is closed", sent=False)
            self._under_way += 1
        try:
            return self._exchange(do, follow or {}, wait_s, door, payload)
        finally:
            with self._calls:
                self._under_way -= 1
                self._calls.notify_all()

    def _exchange(
        self,
        do: Sequence[Mapping[str, Any]],
        follow: Mapping[str, str],
        wait_s: float,
        door: str | None,
        payload: bytes,
    ) -> Answer:
        request = {
            "run": self._run,
            "do": list(do),
            "follow": dict(follow),
            "wait_s": wait_s,
            "door": door,
        }
        data = json.dumps(request).encode() + b"\n" + payload
        timeout_s = wait_s + _CALL_S + len(data) / _BYTES_S
        try:
            command = bundle.call_command(self._root, _bundle()[1])
        except ValueError as error:
            raise Refused("configuration", f"host {self.host.name}: {error}", whole=True) from None
        reply = self._transport.call(self.host.name, command, data, timeout_s=timeout_s)
        if reply.exit_code == bundle.MISSING:
            self._install()
            self._there.clear()
            reply = self._transport.call(self.host.name, command, data, timeout_s=timeout_s)
        return self._read(reply)

    def put(self, files: Iterable[File]) -> None:
        """Bring files to the host that are not there yet."""
        wanted = {file.sha256: file for file in files if file.sha256 not in self._there}
        large = [sha for sha, file in wanted.items() if file.size > _SMALL]
        if large:
            missing = set(_result(self.exchange([{"op": "have", "files": large}]), 0)["missing"])
            self._there.update(sha for sha in large if sha not in missing)
            wanted = {sha: file for sha, file in wanted.items() if sha not in self._there}
        do: list[dict[str, Any]] = []
        payload = bytearray()
        for sha, file in wanted.items():
            with open(file.path, "rb") as source:
                offset = 0
                while True:
                    piece = source.read(_PIECE - len(payload))
                    do.append(
                        {"op": "put", "sha256": sha, "offset": offset, "size": len(piece), "total": file.size}
                    )
                    payload += piece
                    offset += len(piece)
                    if len(payload) >= _PIECE:
                        self._put(do, payload)
                    if offset >= file.size or not piece:
                        break
        if do:
            self._put(do, payload)
        self._there.update(wanted)

    def forgot(self, files: Iterable[str]) -> None:
        """These files are on the host no more."""
        self._there.difference_update(files)

    def fetch(self, key: str, token: str, what: str, path: str) -> None:
        """Bring the ``outputs`` or the ``log`` of an ended unit into a file here."""
        with open(path, "wb") as file:
            offset, size = 0, 1
            while offset < size:
                one = {"op": "fetch", "key": key, "token": token, "what": what, "offset": offset}
                result = _result(self.exchange([{**one, "length": _PIECE}]), 0)
                data = unpacked(result["data"])
                file.write(data)
                offset, size = offset + len(data), int(result["size"])
                if not data and offset < size:
                    raise Refused("file_system", f"{what} on host {self.host.name} became shorter")

    def _put(self, do: list[dict[str, Any]], payload: bytearray) -> None:
        answer = self.exchange(do, payload=bytes(payload))
        for number in range(len(do)):
            _result(answer, number)
        do.clear()
        payload.clear()

    def _install(self) -> None:
        data, digest = _bundle()
        command = bundle.install_command(self._root, digest, self.host.python)
        timeout_s = _CALL_S + len(data) / _BYTES_S
        reply = self._transport.call(self.host.name, command, data, timeout_s=timeout_s)
        if reply.exit_code:
            raise _refusal(reply, self.host.name, "the bundle could not be installed")

    def _read(self, reply: Reply) -> Answer:
        _, found, text = ("\n" + reply.stdout).rpartition(f"\n{_MARK}\n")
        if found:
            try:
                answer = json.loads(text)
            except ValueError:
                # Cut in the middle: what was done there is asked for again.
                raise Unreachable(
                    "network", f"the answer of host {self.host.name} was cut", sent=True
                ) from None
            if isinstance(answer, dict):
                return answer
        raise _refusal(reply, self.host.name, "no answer")


_bundle = functools.cache(bundle.build)


def unpacked(data: str) -> bytes:
    """The bytes that an answer carries."""
    return zlib.decompress(base64.b64decode(data))


def _result(answer: Answer, number: int) -> dict[str, Any]:
    """The result of one operation; raises Refused if it failed."""
    result: dict[str, Any] = answer["done"][number]
    if "error" in result:
        raise Refused(result["error"], result["evidence"])
    return result


def _refusal(reply: Reply, host: str, what: str) -> Refused:
    lines = [line for line in (reply.stderr + "\n" + reply.stdout).splitlines() if line.strip()]
    said = lines[-1].strip()[:300] if lines else f"exit code {reply.exit_code}"
    if reply.exit_code == bundle.NO_PYTHON:
        return Refused("environment", f"host {host} has no Python 3.9 or newer: {said}", whole=True)
    from ripresa.recovery.classifier import classify

    verdict = classify("\n".join(lines), exit_code=reply.exit_code, signal=None)
    failure_class = "environment" if verdict.failure_class == "unknown" else verdict.failure_class
    return Refused(failure_class, f"host {host}: {what}: {said}", sent=reply.exit_code > 128, whole=True)
