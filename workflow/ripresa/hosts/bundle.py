"""What is shipped to a host: this package as an archive, and the shell commands that install and call it.

A host needs sh and Python 3.9 or newer, nothing else. An archive is known by its content, so it is sent once;
it appears on the host whole or not at all, and several controllers may send it at the same time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shlex
import tarfile
from pathlib import Path

import ripresa

MISSING = 86
"""The exit code of a call where the bundle (or the Python it was installed with) is not there."""

NO_PYTHON = 127
"""The exit code of an installation where no usable Python is found."""

OLDEST_PYTHON = (3, 9)

_NOT_SHIPPED = ("cli", "slurm", "notify", "families/stacking")
_SUFFIXES = {".py", ".toml", ".yaml", ".json"}
_ENTRY = "ripresa/hosts/agent/__main__.py"
_PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(13, 8, -1)), "/usr/bin/python3")
_ROOT = re.compile(r"(~[A-Za-z0-9._-]*)(?:/(.*))?", re.DOTALL)


def build() -> tuple[bytes, str]:
    """The archive (tar.gz) and its digest, 24 hex digits of the SHA-256 of the tar; always the same."""
    package = Path(ripresa.__file__).parent
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(package.rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file() and _ships(path.relative_to(package).as_posix()):
                member = tarfile.TarInfo(f"ripresa/{path.relative_to(package).as_posix()}")
                data = path.read_bytes()
                member.size, member.mode = len(data), 0o600
                archive.addfile(member, io.BytesIO(data))
    return gzip.compress(tar.getvalue(), mtime=0), hashlib.sha256(tar.getvalue()).hexdigest()[:24]


def _ships(path: str) -> bool:
    left_out = any(path.startswith(f"{folder}/") for folder in _NOT_SHIPPED)
    return not left_out and "__pycache__" not in path.split("/")


def install_command(root: str, digest: str, python: str | None = None) -> str:
    """The shell command that installs an archive from its standard input below ``root`` (``~`` may lead it).

    ``python`` is tried first as the interpreter of agent and units. The command ends with `NO_PYTHON` and one
    line on standard error if there is none, with 1 and one line if the archive cannot be installed.
    """
    given = [shell_path(python) if python[0] in "/~" else shlex.quote(python)] if python else []
    candidates = " ".join(dict.fromkeys([*given, *_PYTHONS]))
    usable = f"import sys, zlib, tarfile, fcntl; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return (
        f"root={shell_path(root)}\n"
        f"for python in {candidates}; do\n"
        f'  if "$python" -IS -c {shlex.quote(usable)} </dev/null >/dev/null 2>&1; then\n'
        f'    exec "$python" -IS -c {shlex.quote(_INSTALLER)} "$root" {shlex.quote(digest)} {_ENTRY}\n'
        f"  fi\n"
        f"done\n"
        f"echo 'ripresa: no Python {oldest} or newer on this host; install one, or name it in "
        f"ansible_python_interpreter' >&2\n"
        f"exit {NO_PYTHON}\n"
    )


def call_command(root: str, digest: str) -> str:
    """The shell command of one call, which takes the request on its standard input.

    It exits with `MISSING` if the bundle is to be installed first.
    """
    return (
        f"root={shell_path(root)}; bundle=$root/bundles/{shlex.quote(digest)}\n"
        f'if [ -x "$bundle/bin/python" ] && [ -f "$bundle/{_ENTRY}" ]; then\n'
        f'  exec "$bundle/bin/python" -IS -X utf8 "$bundle/{_ENTRY}" "$root"\n'
        f"fi\n"
        f'echo "ripresa: no bundle {digest} in $root" >&2\n'
        f"exit {MISSING}\n"
    )


def shell_path(path: str) -> str:
    """A path quoted for a shell, which still expands a leading ``~`` or ``~user``.

    Raises ValueError for what is neither absolute nor below a home directory.
    """
    home = _ROOT.fullmatch(path)
    if home is not None:
        return home[1] + (f"/{shlex.quote(home[2])}" if home[2] else "")
    if not path.startswith("/"):
        raise ValueError(f"ripresa_dir must begin with / or ~: {path}")
    return shlex.quote(path)


_INSTALLER = r"""
import gzip, hashlib, io, os, shutil, sys, tarfile
root, digest, entry = sys.argv[1:]
os.umask(0o077)
root = os.path.abspath(root)
home = root + "/bundles/" + digest
new = root + "/bundles/." + digest + "." + str(os.getpid())

def whole():
    return os.path.isfile(home + "/" + entry)

def link(source, path):
    os.symlink(source, path + ".new")
    os.replace(path + ".new", path)

def interpreter(folder):
    # What a virtual environment has installed is found by what stands beside its interpreter.
    bin = os.path.dirname(sys.executable)
    os.makedirs(folder + "/bin", exist_ok=True)
    link(sys.executable, folder + "/bin/python")
    for name in ("pyvenv.cfg", "lib", "lib64"):
        above = os.path.dirname(bin)
        if os.path.isfile(above + "/pyvenv.cfg") and os.path.lexists(above + "/" + name):
            link(above + "/" + name, folder + "/" + name)

try:
    data = gzip.decompress(sys.stdin.buffer.read())
    if hashlib.sha256(data).hexdigest()[:len(digest)] != digest:
        raise ValueError("it arrived damaged")
    os.makedirs(new)
    try:
        if whole():
            interpreter(home)
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    path = os.path.join(new, member.name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with archive.extractfile(member) as source, open(path, "wb") as target:
                        shutil.copyfileobj(source, target)
            interpreter(new)
            try:
                os.rename(new, home)
            except OSError:
                if not whole():
                    os.rename(home, new + ".damaged")
                    os.rename(new, home)
    finally:
        for left in (new, new + ".damaged"):
            shutil.rmtree(left, ignore_errors=True)
except (OSError, EOFError, ValueError, tarfile.TarError) as error:
    sys.exit("ripresa: the bundle cannot be installed in %s: %s" % (root, error))
"""
