"""What is shipped to hosts, and how it gets there with sh and Python alone."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ripresa.hosts import bundle

PYTHON = "/usr/bin/python3"
BUNDLE, DIGEST = bundle.build()


def shell(command, data=b"", **environment):
    """Run a command as a bare host would: without anything but a PATH."""
    environment = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(
        ["/bin/sh", "-c", command], input=data, env=environment, capture_output=True, check=False
    )


def hello(root, **environment):
    command = bundle.call_command(root, DIGEST)
    return shell(command, b'{"run": "r", "do": [{"op": "hello"}]}\n', **environment)


def test_it_is_the_same_every_time():
    code = "import sys; from ripresa.hosts import bundle; sys.stdout.buffer.write(bundle.build()[0])"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout == BUNDLE


def test_it_holds_what_hosts_need_and_no_more():
    with tarfile.open(fileobj=io.BytesIO(BUNDLE)) as archive:
        names = archive.getnames()
    assert "ripresa/hosts/agent/__main__.py" in names and "ripresa/recovery/execution.py" in names
    assert "ripresa/families/benchmarks/running.py" in names
    for folder in ("cli", "slurm", "notify", "families/stacking"):
        assert not [name for name in names if name.startswith(f"ripresa/{folder}/")]
    assert {Path(name).suffix for name in names} <= {".py", ".toml", ".yaml", ".json"}
    assert len(BUNDLE) < 500_000


@pytest.mark.parametrize("name", ["root", "with space", 'quote\'d "$HOME"; exit 3'])
def test_it_is_installed_once_and_called(tmp_path, name):
    root = str(tmp_path / name)
    absent = hello(root)
    assert absent.returncode == bundle.MISSING and b"no bundle" in absent.stderr
    for _ in range(2):
        done = shell(bundle.install_command(root, DIGEST), BUNDLE)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert os.listdir(f"{root}/bundles") == [DIGEST]
    assert os.stat(root).st_mode & 0o777 == 0o700
    done = hello(root)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.rpartition(b"ripresa-answer\n")[2])["done"][0]
    assert told["root"] == root


def test_a_root_in_a_home(tmp_path):
    install = bundle.install_command("~/.ripresa it", DIGEST)
    assert shell(install, BUNDLE, HOME=str(tmp_path)).returncode == 0
    done = hello("~/.ripresa it", HOME=str(tmp_path))
    told = json.loads(done.stdout.rpartition(b"ripresa-answer\n")[2])["done"][0]
    assert told["root"] == f"{tmp_path}/.ripresa it"
    assert bundle.shell_path("~someone/x y") == "~someone/'x y'" and bundle.shell_path("~") == "~"


def test_a_relative_root_is_refused():
    with pytest.raises(ValueError, match="must begin with / or ~"):
        bundle.call_command("runs", DIGEST)


def test_a_host_without_python(tmp_path):
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    command = bundle.install_command(str(tmp_path / "root"), DIGEST).replace("/usr/bin/python3;", "/nowhere;")
    done = shell(command, BUNDLE, PATH=str(tmp_path))
    assert done.returncode == bundle.NO_PYTHON and done.stderr.count(b"\n") == 1
    assert b"no Python 3.9 or newer" in done.stderr and not (tmp_path / "root").exists()


def test_an_archive_that_arrives_damaged(tmp_path):
    for data in (BUNDLE[:-100], b"", b"nonsense"):
        done = shell(bundle.install_command(str(tmp_path), DIGEST), data)
        assert done.returncode == 1 and done.stderr.startswith(b"ripresa: the bundle cannot be installed")
        assert done.stderr.count(b"\n") == 1
    assert not os.path.exists(tmp_path / "bundles") or os.listdir(tmp_path / "bundles") == []


def test_a_bundle_that_lost_files_or_its_python_is_installed_again(tmp_path):
    root, home = str(tmp_path), tmp_path / "bundles" / DIGEST
    install = bundle.install_command(root, DIGEST)
    for damage in (
        (home / "ripresa/hosts/agent/__main__.py").unlink,
        lambda: ((home / "bin/python").unlink(), (home / "bin/python").symlink_to("/nowhere/python3")),
    ):
        shell(install, BUNDLE)
        damage()
        assert hello(root).returncode == bundle.MISSING
        assert shell(install, BUNDLE).returncode == 0
        assert hello(root).returncode == 0
    assert os.listdir(tmp_path / "bundles") == [DIGEST]


def test_units_see_what_the_given_python_sees(tmp_path):
    """The packages of a virtual environment are found through the bundle, too."""
    own = tmp_path / "own"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", own], check=True)
    (packages,) = own.glob("lib/python*/site-packages")
    (packages / "mine.py").write_text("print('found')")
    root = str(tmp_path / "root")
    assert shell(bundle.install_command(root, DIGEST, f"{own}/bin/python"), BUNDLE).returncode == 0
    python = f"{root}/bundles/{DIGEST}/bin/python"
    assert os.readlink(python) == f"{own}/bin/python"
    assert subprocess.check_output([python, "-c", "import mine"]) == b"found\n"
    assert hello(root).returncode == 0
