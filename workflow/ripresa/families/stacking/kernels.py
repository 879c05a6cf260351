"""The decorator of all compiled loops, and where their machine code is kept between processes.

For a compiled kernel numba checks the file it stands in and nothing else, not the kernels and constants of
other modules that were compiled into it. So the code is kept in a folder named after the contents of all
modules that hold kernels: a change of one of them is a new folder. Kernels take constants and other kernels
only from such modules (a test sees to it).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import llvmlite.binding
import numba

Function = TypeVar("Function", bound=Callable[..., Any])

PREFIX = "ripresa-stacking-"
UNUSED_S = 3600
"""Folders of other sources are kept this long after their last use: a process that began before a change may
still run, and two installations may share the place."""
ABANDONED_S = 30 * 86400
"""The same for other processors and other versions of numba, of which a change here says nothing."""

_config: Any = numba.config  # its attributes are made when it is imported
_FAMILY = Path(__file__).parent
_IMPORT = b"from ripresa.families.stacking.kernels import"


def _sources() -> Iterator[tuple[str, bytes]]:
    """The modules that hold kernels, this one among them: their names within the family and their texts."""
    for folder, subfolders, names in os.walk(_FAMILY):
        subfolders[:] = sorted(set(subfolders) - {"__pycache__"})
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, "rb", 0) as file:
                    text = file.read()
                if _IMPORT in text:
                    yield os.path.relpath(path, _FAMILY), text


def _name() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, text in _sources():
        digest.update(f"{name} {len(text)}\n".encode() + text)
    cpu = _config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    return f"{PREFIX}{digest.hexdigest()}-numba{numba.__version__}-{cpu}"


def _places() -> Iterator[Path]:
    if _config.CACHE_DIR:  # NUMBA_CACHE_DIR
        yield Path(_config.CACHE_DIR).absolute()
        return
    yield _FAMILY / "__pycache__"
    with contextlib.suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ripresa"


def _folder() -> Path | None:
    """The folder for the code of these sources, None (and a warning) where nothing can be written."""
    name = _name()
    places = list(_places())
    for folder in (place / name for place in places):
        try:
            is_new = not folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        if is_new:
            _remove_unused(folder)
        return folder
    tried = " nor ".join(map(str, places))
    print(
        f"warning: cannot write to {tried}, so every process compiles its loops; "
        "set NUMBA_CACHE_DIR to a folder where it can",
        file=sys.stderr,
    )
    return None


def _remove_unused(current: Path) -> None:
    machine = current.name.removeprefix(PREFIX).partition("-")[2]
    for other in current.parent.glob(f"{PREFIX}*"):
        kept_s = UNUSED_S if other.name.endswith(f"-{machine}") else ABANDONED_S
        with contextlib.suppress(OSError):
            if other != current and time.time() - other.stat().st_mtime > kept_s:
                shutil.rmtree(other, ignore_errors=True)


_CACHE = _folder()


@contextlib.contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """Have numba keep what is decorated meanwhile in ``folder``, and nowhere else."""
    before = _config.CACHE_DIR, getattr(_config, "CACHE_LOCATOR_CLASSES", "")
    _config.CACHE_DIR, _config.CACHE_LOCATOR_CLASSES = str(folder), "UserProvidedCacheLocator"
    try:
        yield
    finally:
        _config.CACHE_DIR, _config.CACHE_LOCATOR_CLASSES = before


def _guard(dispatcher: Any, folder: Path) -> None:
    """Let one process save at a time, none of sources that are no longer there, and none fail because it
    cannot save.

    numba numbers the files of a kernel by an index that it reads and writes again: two processes that save
    the kernel for different types at once could take one number, and each other's code.
    """
    cache = getattr(dispatcher, "_cache", None)
    if cache is None:  # NUMBA_DISABLE_JIT
        return
    save = cache.save_overload

    def save_alone(signature: Any, compiled: Any) -> None:
        with contextlib.suppress(OSError), open(folder / "lock", "wb") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _name() == folder.name:
                save(signature, compiled)

    cache.save_overload = save_alone


@overload
def kernel(function: Function, /) -> Function: ...


@overload
def kernel(**options: Any) -> Callable[[Function], Function]: ...


def kernel(function: Any = None, /, **options: Any) -> Any:
    """Compile a function with numba, without the interpreter's lock; ``options`` are those of numba's njit.

    The code is compiled on the first call and kept for other processes.
    """
    if function is None:
        return lambda function: kernel(function, **options)
    if _CACHE is not None:
        with contextlib.suppress(RuntimeError), _cached_in(_CACHE):  # the folder may have become read-only
            dispatcher = numba.njit(cache=True, nogil=True, **options)(function)
            _guard(dispatcher, _CACHE)
            return dispatcher
    return numba.njit(nogil=True, **options)(function)
