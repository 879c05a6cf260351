"""What a quarantine blames: it ends by itself when some of that has changed, and by nothing else.

A failure blames the command and, by its class, the files that the command names, the inputs, the
environment, or the right to use what it asks for. Files count by their content: a new time of modification
changes nothing. Imported only when there is a quarantine.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from ripresa.journal import clock, publish, records
from ripresa.journal.events import emit
from ripresa.recovery import adoption, escalation
from ripresa.recovery.unit import Unit

State = dict[str, str]
"""What is blamed, by a name for people, and a print of how it is."""

FILES, INPUTS, ENVIRONMENT, ACCESS = "files", "inputs", "environment", "access"
_KINDS = {
    "code": (FILES,),
    "configuration": (FILES,),
    "data": (INPUTS,),
    "numerical": (FILES, INPUTS),
    "environment": (FILES, ENVIRONMENT),
    "permission": (FILES, ENVIRONMENT, ACCESS),
}
_OTHERS = (FILES, INPUTS)

_SINGLY = 100
"""Of so many inputs each is remembered; of more, all of them as one."""
_WHOLE = 1 << 30
"""Files up to this many bytes in all are told by their content, what is beyond by size and time."""
_MOST = 200
_VARIABLES = (
    "APPTAINER_CONTAINER", "CONDA_PREFIX", "LD_LIBRARY_PATH", "PYTHONPATH", "R_LIBS", "R_LIBS_USER",
    "SINGULARITY_CONTAINER", "VIRTUAL_ENV",
)  # fmt: skip
# Inputs that are no data although they are inputs.
_SOURCES = (
    ".awk", ".bash", ".cfg", ".conf", ".ini", ".jl", ".js", ".m", ".pl", ".py", ".r", ".rb", ".sh", ".smk",
    ".sql", ".toml", ".yaml", ".yml",
)  # fmt: skip
# Where messages say in which file they arose: Python, Bash, and `FILE:LINE` as most others have it.
_TRACE = re.compile(
    r'File "([^"\n]+)", line \d+|(?:^|[\s(])([\w.+~/-]+): line \d+:|(?:^|[\s(])([\w.+~/-]+\.\w{1,5}):\d+',
    re.M,
)
_WORD = re.compile(r"[\w.+@%=~/-]+")
_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|\b[A-Z]{4,}\b")
_MODULE = re.compile(r"No module named ['\"]?(\w+)")
_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[.\d]*)")
_PROGRAM = re.compile(r"[\w.+-]*[A-Za-z][\w.+-]*")


def blamed(unit: Unit, record: dict[str, Any], history: list[dict[str, Any]], log: str) -> dict[str, Any]:
    """What to remember of a failure that puts a unit into quarantine.

    ``state`` is how everything is that it blames, ``named`` the files among it that only the log tells, and
    ``meanwhile`` those that changed while the attempt ran, and so may be correct already (unless such a
    change has just ended a quarantine: the command itself may write them).
    """
    found = ("".join(groups) for groups in _TRACE.findall(log))
    words = [word for word in _WORD.findall(str(record.get("evidence"))) if "." in word or "/" in word]
    journal = os.path.abspath(unit.run.journal) + os.sep
    outputs = {os.path.abspath(output) for output in unit.outputs}
    # What is not there may be what is missing.
    absent = {word for word in words if "/" in word and not os.path.lexists(word)}
    named = {
        path
        for path in (*found, *words)
        if (os.path.isfile(path) or path in absent)
        and not os.path.abspath(path).startswith(journal)
        and os.path.abspath(path) not in outputs
    }
    if FILES not in _kinds(record):
        named.intersection_update(words)
    shown = sorted(named)[:_MOST]
    state = _state(unit, record, shown, {})
    before = history[-1].get("changed") if history else None
    started = clock.seconds(record.get("started"))
    files = (label.partition(": ")[2] for label in state if label.startswith(("file: ", "input: ")))
    late = [path for path in files if path not in (before or ()) and _modified(path) > started]
    return {"state": state, "named": shown, "meanwhile": late}


def changed(unit: Unit, record: dict[str, Any]) -> list[str]:
    """What a quarantine blames and has changed since, by names for people; empty as long as it holds.

    A quarantine whose notes are lost holds until its command changes or a person releases it.
    """
    if record.get("command_sha256") != unit.digest:
        return ["its command"]
    if resource := escalation.more(unit.run, record) or _another_amount(unit, record):
        return [resource]
    notes = record.get("blamed")
    known = notes.get("state") if isinstance(notes, dict) else None
    if not isinstance(notes, dict) or not isinstance(known, dict):
        return []
    if meanwhile := [str(path) for path in notes.get("meanwhile") or []]:
        return meanwhile
    named = [path for path in notes.get("named") or [] if isinstance(path, str)]
    now = _state(unit, record, named, known)
    labels = [label for label in {**known, **now} if known.get(label) != now.get(label)]
    return [_shown(label) for label in labels]


def release(unit: Unit, record: dict[str, Any], what: list[str]) -> None:
    """Record that a quarantine has ended by itself, and why. What the unit was found to need stays known."""
    now = clock.iso()
    shown = ", ".join(what[:3]) + (f" and {len(what) - 3} more" if len(what) > 3 else "")
    evidence = f"{shown} changed since"
    unit.say(f"its quarantine is over: {evidence}")
    end = {
        "attempt": record.get("attempt"),
        "target": unit.target,
        "rule": unit.rule,
        "run_id": unit.run.run_id,
        "outcome": "released",
        "evidence": evidence,
        "changed": what[:_MOST],
        "decision": "retry",
        "not_before": None,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "started": now,
        "ended": now,
        "session": unit.session,
    }
    records.append(unit.run.attempts(unit.target), end)
    emit(
        unit.run,
        "unit_retry_scheduled",
        target=unit.target,
        attempt=record.get("attempt"),
        not_before=None,
        failure_class=record.get("failure_class"),
        evidence=evidence,
        decision="retry",
    )


def _shown(label: str) -> str:
    """What is blamed, for people."""
    kind, _, name = label.partition(": ")
    return name if kind in ("file", "input", "its") else f"{kind} {name}"


def _kinds(record: dict[str, Any]) -> tuple[str, ...]:
    return _KINDS.get(str(record.get("failure_class")), _OTHERS)


def _another_amount(unit: Unit, record: dict[str, Any]) -> str | None:
    """The resource of which a unit that had used up all there was gets another amount now."""
    spent = record.get("spent")
    had = record.get("resources") or {}
    for name in spent if isinstance(spent, dict) else ():
        if unit.resources.get(name) != had.get(name):
            return str(name)
    return None


def _state(unit: Unit, record: dict[str, Any], named: list[str], known: dict[str, Any]) -> State:
    """How all is that a failure blames. ``known`` spares reading the files that nobody touched."""
    kinds = _kinds(record)
    inputs, words = adoption.named(unit)
    evidence = str(record.get("evidence"))
    data = {path for path in inputs if not path.lower().endswith(_SOURCES)}
    files = [word for word in sorted(words - data) if _is_file(word)] if FILES in kinds else []
    room = _WHOLE
    state: State = {}
    for path in dict.fromkeys([*files, *named]):
        state[f"file: {path}"], room = _file(path, known.get(f"file: {path}"), room)
    if INPUTS in kinds:
        state["its: choice of inputs"] = _digest(inputs)
        groups = {path: [path] for path in inputs} if len(inputs) <= _SINGLY else {"its inputs": inputs}
        for label, paths in groups.items():
            state[f"input: {label}"], room = _files(paths, known.get(f"input: {label}"), room)
    if ENVIRONMENT in kinds:
        state.update(_programs(unit, [*words, *_WORD.findall(evidence)], known))
        state.update(_missing(evidence, words))
    asked = {*(_VARIABLES if ENVIRONMENT in kinds else ()), *_VARIABLE.findall(evidence)}
    if ENVIRONMENT in kinds or record.get("failure_class") == "configuration":
        for name in sorted(asked & os.environ.keys()):
            # Only a digest: a variable may hold a secret.
            state[f"variable: {name}"] = _digest([os.environ[name]])
    if ACCESS in kinds:
        # The list may have the group proper in it or not, by how the process was started.
        own = sorted({*os.getgroups(), os.getgid()})
        state["its: user and groups"] = f"{os.getuid()} {os.getgid()} {own}"
        for path in sorted({*inputs, *words, *_WORD.findall(evidence)})[:_MOST]:
            if "/" in path or os.path.lexists(path):
                state[f"access to: {path}"] = _access(path)
    return state


def _programs(unit: Unit, words: list[str], known: dict[str, Any]) -> State:
    """The programs that words resolve to, and what is installed beside interpreters among them."""
    state: State = {}
    search = [os.path.dirname(unit.python), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    for word in sorted(set(words))[:_MOST]:
        path = next((p for d in search if _runs(p := os.path.join(d, word))), None)
        if path is None or not _PROGRAM.fullmatch(word):
            continue
        label = f"program: {word}"
        before = str(known.get(label)).partition("|")[2]
        state[label] = f"{os.path.abspath(path)}|{_file(os.path.realpath(path), before, _WHOLE)[0]}"
        if _is_python(path):
            prefix = os.path.dirname(os.path.dirname(os.path.abspath(path)))
            state.update(_packages(prefix))
    if conda := os.environ.get("CONDA_PREFIX"):
        state.update(_listing(os.path.join(conda, "conda-meta")))
    return state


def _packages(prefix: str) -> State:
    """The packages installed for the Python of a prefix: the entries of a folder carry their versions."""
    state: State = {}
    for base in (f"{prefix}/lib", "/usr/local/lib" if prefix == "/usr" else ""):
        for name in _entries(base):
            if name.startswith("python"):
                state.update(_listing(f"{base}/{name}/site-packages"))
                state.update(_listing(f"{base}/{name}/dist-packages"))
    return state


def _missing(evidence: str, words: set[str]) -> State:
    """Whether what the evidence says is missing is there now, where no listing would show it."""
    state: State = {}
    if found := _MODULE.search(evidence):
        beside = {os.path.dirname(word) or "." for word in words if _is_file(word)}
        places = {"."} | beside | set(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
        paths = (f"{place}/{found[1]}{end}" for place in places for end in ("", ".py"))
        state[f"module: {found[1]}"] = str(any(map(os.path.exists, paths)))
    if library := _LIBRARY.search(evidence):
        try:
            with open("/etc/ld.so.cache", "rb") as file:
                there = library[1].encode() in file.read()
        except OSError:
            there = False
        places = set(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)))
        state[f"library: {library[1]}"] = str(
            there or any(os.path.exists(f"{p}/{library[1]}") for p in places)
        )
    return state


def _is_python(path: str) -> bool:
    """Whether a program is a Python, or a script for one."""
    if os.path.basename(os.path.realpath(path)).startswith("python"):
        return True
    try:
        with open(path, "rb") as file:
            first = file.readline(200)
    except OSError:
        return False
    return first.startswith(b"#!") and b"python" in first


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory)) if directory else []
    except OSError:
        return []


def _listing(directory: str) -> State:
    names = [name for name in _entries(directory) if name != "__pycache__"]
    return {f"packages in: {directory}": _digest(names)} if names else {}


def _access(path: str) -> str:
    """What this process may do with a path."""
    try:
        there = os.stat(path)
        shown = f"{there.st_mode:o}:{there.st_uid}:{there.st_gid}"
    except OSError as error:
        shown = str(error.errno)
    return shown + "".join(str(int(os.access(path, mode))) for mode in (os.R_OK, os.W_OK, os.X_OK))


def _files(paths: list[str], known: Any, room: int) -> tuple[str, int]:
    """The print of one file or of several together."""
    if len(paths) == 1:
        return _file(paths[0], known, room)
    prints = []
    for path in paths:
        one, room = _file(path, None, room)
        # Of several no single print is known, so what a touch changes is left out.
        prints.append(one.rpartition("#")[2])
    return _digest(prints), room


def _file(path: str, known: Any, room: int) -> tuple[str, int]:
    """``STAT#CONTENT`` of a file or directory tree, and how many more bytes may be read.

    The known print is returned as it is if the file still is as it says: by its inode, or by its content.
    """
    try:
        there = os.stat(path)
        size = _size(path, there)
        seen = f"{there.st_dev}:{there.st_ino}:{there.st_size}:{there.st_mtime_ns}:{there.st_ctime_ns}"
        tree = stat.S_ISDIR(there.st_mode)
        if isinstance(known, str) and not tree and known.startswith(f"{seen}#"):
            return known, room
        if not tree and not stat.S_ISREG(there.st_mode):
            return "#special", room
        content = publish.checksum(path)[:16] if size <= room else f"{size}:{there.st_mtime_ns}"
    except OSError as error:
        return f"#{error.errno}", room
    same = isinstance(known, str) and known.rpartition("#")[2] == content
    return known if same else f"{seen}#{content}", max(0, room - size)


def _size(path: str, there: os.stat_result) -> int:
    if not stat.S_ISDIR(there.st_mode):
        return there.st_size
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(os.stat(name).st_size for name in inside)


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:
        return False


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except (OSError, ValueError):
        return 0.0


def _digest(parts: Iterable[str]) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:16]
