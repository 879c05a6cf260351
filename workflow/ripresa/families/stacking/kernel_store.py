"""Where the machine code of kernels is kept between processes, and how it gets into one.

The code is kept in a folder named after the contents of all modules that hold kernels, because a kernel
contains what it calls: a change of one of them is a new folder. Kernels take constants and other kernels only
from such modules (a test sees to it).
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from ripresa.families.stacking.kernels import Kernel

PREFIX = "ripresa-stacking-"
ENTRY = "kernel"
"""The name of the function in the machine code that C calls."""
UNUSED_S = 3600
"""Folders of other sources are kept this long after their last use: a process that began before a change may
still run, and two installations may share the place."""
ABANDONED_S = 30 * 86400
"""The same for other processors and other versions of numba, of which a change here says nothing."""

_FAMILY = Path(__file__).parent
_OWN = ("kernels.py", "kernel_store.py", "kernel_compiler.py")
_IMPORT = b"from ripresa.families.stacking.kernels import"


class Code(NamedTuple):
    """Linked machine code."""

    address: int
    returns: str | None
    """The type of the result in numpy's letters."""


class Machine(NamedTuple):
    """Compiled machine code, not yet linked."""

    code: bytes
    returns: str | None
    needs: list[str]
    """Functions and objects that are not in it."""


def load(kernel: Kernel, signature: str) -> Code:
    """Link a kernel for arguments of these types; it is compiled if that was never done."""
    folder = _folder()
    path = _path(folder, kernel, signature) if folder else None
    machine = _read(path) if path else None
    if machine is not None:
        with contextlib.suppress(RuntimeError, LookupError, ImportError):
            return _link(machine)
    from ripresa.families.stacking import kernel_compiler

    machine = kernel_compiler.compile(kernel, signature)
    # The sources may have changed since this process read them.
    if path is not None and folder is not None and _name() == folder.name:
        with contextlib.suppress(OSError):
            _write(path, machine)
    return _link(machine)


def _path(folder: Path, kernel: Kernel, signature: str) -> Path:
    return folder / f"{kernel.name}-{hashlib.blake2b(signature.encode(), digest_size=8).hexdigest()}"


def _read(path: Path) -> Machine | None:
    """What is kept in a file; None if there is nothing, or it is damaged."""
    try:
        head, _, code = path.read_bytes().partition(b"\n")
        about = json.loads(head)
        if about["digest"] == hashlib.blake2b(code, digest_size=16).hexdigest():
            return Machine(code, about["returns"], about["needs"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None


def _write(path: Path, machine: Machine) -> None:
    about = {
        "digest": hashlib.blake2b(machine.code, digest_size=16).hexdigest(),
        "returns": machine.returns,
        "needs": machine.needs,
    }
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(json.dumps(about).encode() + b"\n" + machine.code)
            file.flush()
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise


@functools.cache
def _linker() -> Any:
    llvm.initialize_native_target()
    return llvm.create_lljit_compiler()


_libraries: list[Any] = []  # the code is there as long as these are


def _link(machine: Machine) -> Code:
    """RuntimeError, LookupError or ImportError if something that it needs is not there."""
    builder = llvm.JITLibraryBuilder().add_object_img(machine.code).export_symbol(ENTRY).add_current_process()
    for name in machine.needs:
        address = _address(name)
        if address is not None:
            builder.import_symbol(name, address)
    library = builder.link(_linker(), f"kernel-{len(_libraries)}")
    _libraries.append(library)
    return Code(library[ENTRY], machine.returns)


def _address(name: str) -> int | None:
    """Where something is that numba's code refers to; None if it is a function of C or Python."""
    if name.startswith("numba_"):
        return _helpers("_helperlib")[name.removeprefix("numba_")]
    if name.startswith("NRT_"):
        return _helpers("core/runtime/_nrt_python")[name.removeprefix("NRT_")]
    if name.startswith("PyExc_"):
        return id(getattr(builtins, name.removeprefix("PyExc_")))
    return id(None) if name == "_Py_NoneStruct" else None


@functools.cache
def _helpers(module: str) -> dict[str, int]:
    """Addresses of functions of numba's run-time library, of which code compiled by it makes use.

    numba has no public way to them that does not import all of it. If they are no longer where they are
    looked for, kernels are compiled in every process, and a test fails.
    """
    package = importlib.util.find_spec("numba")
    if package is None or package.origin is None:
        raise ImportError("numba is not there")
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(package.origin).parent / (module + suffix)
        if path.exists():
            name = f"numba.{module.replace('/', '.')}"
            loader = importlib.machinery.ExtensionFileLoader(name, str(path))
            spec = importlib.util.spec_from_loader(name, loader)
            assert spec is not None
            found: dict[str, int] = importlib.util.module_from_spec(spec).c_helpers
            return found
    raise ImportError(f"numba has no {module}")


def _sources() -> Iterator[tuple[str, bytes]]:
    """The modules that hold kernels, and those that make machine code of them: names and texts."""
    for folder, subfolders, names in os.walk(_FAMILY):
        subfolders[:] = sorted(set(subfolders) - {"__pycache__"})
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, "rb", 0) as file:
                    text = file.read()
                if _IMPORT in text or name in _OWN:
                    yield os.path.relpath(path, _FAMILY), text


def _name() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, text in _sources():
        digest.update(f"{name} {len(text)}\n".encode() + text)
    cpu = llvm.get_host_cpu_name()
    features = hashlib.blake2b(llvm.get_host_cpu_features().flatten().encode(), digest_size=4).hexdigest()
    return f"{PREFIX}{digest.hexdigest()}-numba{version('numba')}-{cpu}-{features}"


def _places() -> Iterator[Path]:
    if own := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(own).absolute()
        return
    yield _FAMILY / "__pycache__"
    with contextlib.suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ripresa"


@functools.cache
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
