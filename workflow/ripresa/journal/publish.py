"""Publishing: outputs are written aside, validated, and then appear under their names at once.

The attempt record with outcome ``published`` is the commit. What follows only repeats it on the file
system, and can be repeated at any time as long as the staged files are there: after a crash in the
middle of several outputs, and after Snakemake removed the output of a job that an earlier controller
had started and that it therefore takes for incomplete. The staged files are hard links to the
published ones; they are discarded once Snakemake has noted the job as complete.
"""

from __future__ import annotations

import _thread
import os

from ripresa.journal import clock, records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


try:
    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256
# hashlib loads OpenSSL, which takes longer than hashing a typical output, but hashes large ones much faster.
_LARGE = 4 << 20


def _remove(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def stage(run: Run, target: str, attempt: int, outputs: list[str]) -> list[str]:
    """Make an empty directory for the outputs of an attempt and return their staged paths, in order.

    Outputs keep their names, so that tools which look at the suffix work; outputs that share a name
    go into numbered subdirectories.
    """
    directory = run.staged(target, attempt)
    if os.path.isdir(directory):
        _remove(directory)
    os.makedirs(directory)
    return staged_paths(run, target, attempt, outputs)


def staged_paths(run: Run, target: str, attempt: int, outputs: list[str]) -> list[str]:
    """Where `stage` puts the outputs of an attempt."""
    directory = run.staged(target, attempt)
    names = [os.path.basename(output.rstrip("/")) for output in outputs]
    if len(set(names)) == len(names):
        return [f"{directory}/{name}" for name in names]
    paths = []
    for number, name in enumerate(names):
        if os.path.isdir(directory):
            os.makedirs(f"{directory}/{number}", exist_ok=True)
        paths.append(f"{directory}/{number}/{name}")
    return paths


def _files(path: str) -> Iterable[str]:
    if not os.path.isdir(path):
        yield path
        return
    for directory, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            # Snakemake's own, in directories that are outputs; it comes and changes after publishing.
            if name != ".snakemake_timestamp":
                yield os.path.join(directory, name)


def checksum(path: str) -> str:
    """SHA-256 of a file, or of the names and contents of a directory tree."""
    digest = _sha256(sum(os.stat(name).st_size for name in _files(path)))
    for name in _files(path):
        if name != path:
            digest.update(os.path.relpath(name, path).encode() + b"\0")
        with open(name, "rb", buffering=0) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _sha256(size: int) -> Any:
    if size < _LARGE:
        return sha256()
    import hashlib

    return hashlib.sha256()


def flush(paths: Iterable[str]) -> None:
    """Bring staged outputs to the disk before the commit that promises them."""
    for path in paths:
        for name in _files(path):
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def settle(paths: list[str]) -> list[str]:
    """`flush` staged outputs and return their checksums; large ones both at the same time."""
    if sum(os.stat(name).st_size for path in paths for name in _files(path)) < _LARGE:
        flush(paths)
        return [checksum(path) for path in paths]
    failed: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def flushing() -> None:
        try:
            flush(paths)
        except BaseException as error:  # handed on to who waits
            failed.append(error)
        finally:
            done.release()

    _thread.start_new_thread(flushing, ())
    sums = [checksum(path) for path in paths]
    done.acquire()
    if failed:
        raise failed[0]
    return sums


def commit(run: Run, record: dict[str, Any], staged: list[str], outputs: list[str]) -> None:
    """Publish valid staged outputs. The attempt record, completed and appended here, is what counts."""
    sums = settle(staged)
    record.update(outcome="published", decision="done", ended=clock.iso(), output_sha256=sums[0])
    if len(staged) > 1:
        record["outputs"] = {
            str(run.target_of(output)): one for output, one in zip(outputs[1:], sums[1:], strict=True)
        }
    records.append(run.attempts(record["target"]), record)
    appear(staged, outputs)


def appear(staged: list[str], outputs: list[str]) -> None:
    """Put committed outputs under their names; the target, which is the first, comes last.

    So a target that exists implies the other outputs of its unit. The staged files stay (as hard
    links) where the file system has links, else they are moved.
    """
    for source, output in reversed(list(zip(staged, outputs, strict=True))):
        if not os.path.lexists(source) and os.path.lexists(output):
            continue
        parent = os.path.dirname(output) or "."
        os.makedirs(parent, exist_ok=True)
        temporary = f"{parent}/.{os.path.basename(output.rstrip('/'))}.{os.getpid()}"
        if os.path.isdir(source):
            if os.path.isdir(output):
                _remove(output)
            os.rename(source, output)
            continue
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError:
            os.replace(source, output)
            continue
        os.replace(temporary, output)
        # Replacing a file by a link to itself does nothing and leaves the temporary name.
        if os.path.lexists(temporary):
            os.unlink(temporary)


def discard(run: Run, target: str) -> None:
    """Remove the staged files of a unit that Snakemake knows to be complete. Never raises."""
    parent, _, prefix = run.staged(target, 0)[:-1].rpartition("/")
    try:
        entries = os.listdir(parent)
    except OSError:
        return
    for name in entries:
        if name.startswith(prefix) and name[len(prefix) :].isdigit():
            _remove(f"{parent}/{name}")


def discard_all(run: Run, known: Callable[[str], bool]) -> None:
    """Remove the staged files of all targets that Snakemake knows to be complete."""
    root = f"{run.journal}/staged"
    for directory, folders, _ in os.walk(root):
        for folder in list(folders):
            path = os.path.join(directory, folder)
            name, _, number = os.path.relpath(path, root).rpartition(".a")
            if number.isdigit() and known(name):
                folders.remove(folder)
                _remove(path)
