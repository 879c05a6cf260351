"""Compiled kernels are kept for other processes, but never beyond a change of what was compiled into them."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ripresa.families.stacking import kernel_store
from ripresa.families.stacking.kernels import kernel

FAMILY = Path(kernel_store.__file__).parent
NAME = "ripresa.families.stacking"
CALLEE = f"from {NAME}.kernels import kernel\n@kernel\ndef part(x):\n    return x + %d\n"
CALLER = f"""
from {NAME}.callee import part
from {NAME}.kernels import kernel

@kernel(fastmath=True)
def whole(x):
    return 10 * part(x)
"""
INVERSE = f"""
import numpy as np
from {NAME}.kernels import kernel

@kernel
def inverse(x):
    scratch = np.empty(1000)
    scratch[:] = x
    return 1 / scratch.sum()
"""
RUN = f"import sys; from {NAME}.caller import whole; print(whole(1), int('numba' in sys.modules))"
COMPILING = ("kernels", "kernel_store", "kernel_compiler")
Process = subprocess.Popen[str]


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A copy of the package that holds what kernels need and two modules of them, one calling the other."""
    folder = tmp_path.joinpath("copy", *NAME.split("."))
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    for name in COMPILING:
        shutil.copy(FAMILY / f"{name}.py", folder)
    (folder / "callee.py").write_text(CALLEE % 1)
    (folder / "caller.py").write_text(CALLER)
    return folder


def start(family: Path, code: str = RUN, **environment: str) -> Process:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    own = {"PYTHONPATH": str(family.parents[2]), "HOME": str(family.parents[3] / "home")}
    return subprocess.Popen(
        [sys.executable, "-B", "-c", code],
        env=kept | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: Process) -> tuple[int, int, str]:
    """What the caller gave, 1 if it was compiled (numba is not imported for anything else), and what was said
    beside."""
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    value, compiled = out.split()
    return int(value), int(compiled), said


def folders(place: Path) -> list[Path]:
    return sorted(place.glob(f"{kernel_store.PREFIX}*"))


def test_a_second_process_does_not_compile(family: Path) -> None:
    assert result(start(family)) == (20, 1, "")
    (family / "plots.py").write_text("SIZE = 7\n")  # no kernels, so it does not count
    assert result(start(family)) == (20, 0, "")
    assert len(folders(family / "__pycache__")) == 1


def test_a_changed_callee_changes_the_caller_and_old_code_goes_when_it_is_no_longer_used(
    family: Path,
) -> None:
    place = family / "__pycache__"
    assert result(start(family)) == (20, 1, "")
    (old,) = folders(place)
    # The size and the time of the file stay: the contents count.
    before = (family / "callee.py").stat()
    (family / "callee.py").write_text(CALLEE % 2)
    os.utime(family / "callee.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert result(start(family)) == (30, 1, "")
    assert len(folders(place)) == 2  # another process may use the first one still
    elsewhere = place / f"{old.name}-another-cpu"
    elsewhere.mkdir()
    long_ago = time.time() - kernel_store.UNUSED_S - 60
    for folder in (old, elsewhere):
        os.utime(folder, (long_ago, long_ago))
    (family / "callee.py").write_text(CALLEE % 3)
    assert result(start(family)) == (40, 1, "")
    assert not old.exists()
    assert elsewhere.exists()
    assert len(folders(place)) == 3


def test_sources_that_change_under_a_process_leave_nothing_behind(family: Path) -> None:
    change = f"open({str(family / 'callee.py')!r}, 'a').write('# changed')"
    begin = f"from {NAME} import kernel_store; kernel_store._folder()"
    assert result(start(family, f"{begin}; {change}; {RUN}")) == (20, 1, "")
    assert list(family.rglob("caller.whole-*")) == []
    assert result(start(family)) == (20, 1, "")


def test_a_folder_removed_under_a_process_does_no_harm(family: Path) -> None:
    remove = f"import shutil; shutil.rmtree({str(family / '__pycache__')!r})"
    begin = f"from {NAME} import kernel_store; kernel_store._folder()"
    assert result(start(family, f"{begin}; {remove}; {RUN}")) == (20, 1, "")


@pytest.mark.parametrize("harm", ["torn", "empty", "changed", "another need"])
def test_damaged_code_is_compiled_anew(family: Path, harm: str) -> None:
    assert result(start(family)) == (20, 1, "")
    (path,) = family.rglob("caller.whole-*")
    whole = path.read_bytes()
    head, _, code = whole.partition(b"\n")
    path.write_bytes(
        {
            "torn": whole[: len(whole) // 2],
            "empty": b"",
            "changed": head + b"\n" + code.replace(b"\x00", b"\x01", 5),
            "another need": json.dumps({**json.loads(head), "needs": ["numba_no_such"]}).encode()
            + b"\n"
            + code,
        }[harm]
    )
    assert result(start(family)) == (20, 1, "")
    assert result(start(family)) == (20, 0, "")


def test_a_place_that_the_user_sets_is_the_only_one(family: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert result(start(family, NUMBA_CACHE_DIR=str(place))) == (20, 1, "")
    assert len(folders(place)) == 1
    assert not (family / "__pycache__").exists()


def test_beside_sources_that_are_read_only_the_users_cache_serves(family: Path, tmp_path: Path) -> None:
    (family / "__pycache__").touch()
    assert result(start(family)) == (20, 1, "")
    assert len(folders(tmp_path / "home" / ".cache" / "ripresa")) == 1


def test_without_a_place_every_process_compiles_and_says_so_once(family: Path, tmp_path: Path) -> None:
    (family / "__pycache__").touch()
    (tmp_path / "home").touch()
    value, _, said = result(start(family))
    assert value == 20
    assert said.startswith(f"warning: cannot write to {family / '__pycache__'} nor ")
    assert said.count("\n") == 1  # for two modules


def test_processes_that_compile_at_the_same_time_do_no_harm(family: Path) -> None:
    together = [start(family) for _ in range(2)]
    assert [result(process)[0] for process in together] == [20, 20]
    assert result(start(family)) == (20, 0, "")


@kernel
def _mixed(numbers, pair, scale, flag, nothing):  # type: ignore[no-untyped-def]
    for i in range(numbers.shape[0]):
        for j in range(numbers.shape[1]):
            numbers[i, j] = pair[0][j] * scale + pair[1] + (1 if flag else 0)
    return numbers.sum() + len(nothing)


def test_arrays_numbers_and_tuples_arrive_as_they_are() -> None:
    for kind in (np.float32, np.float64):
        numbers = np.zeros((2, 3), kind)
        pair = (np.arange(3, dtype=kind), 5)
        assert _mixed(numbers, pair, np.float32(2.0), True, ()) == 2 * (6 + 8 + 10)
        assert numbers.tolist() == [[6, 8, 10]] * 2


def test_what_a_kernel_cannot_take_is_refused() -> None:
    numbers = np.zeros((4, 6))
    pair = (np.zeros(3), 5)
    with pytest.raises(TypeError, match="_mixed takes contiguous arrays only"):
        _mixed(numbers[:, ::2], pair, 2.0, True, ())
    with pytest.raises(TypeError, match="_mixed takes no str"):
        _mixed(numbers, pair, "2", True, ())


def test_a_kernel_that_fails_says_so(family: Path) -> None:
    (family / "caller.py").write_text(INVERSE)
    for _ in range(2):  # the second without numba
        process = start(family, f"from {NAME}.caller import inverse; print(inverse(2.0)); inverse(0.0)")
        out, said = process.communicate(timeout=120)
        assert process.returncode == 1
        assert out == "0.0005\n"
        assert "ZeroDivisionError" in said
        assert "RuntimeError: the kernel caller.inverse failed" in said


def modules() -> dict[str, ast.Module]:
    """The modules of the family by their full names."""
    return {
        ".".join((NAME, *path.relative_to(FAMILY).with_suffix("").parts)): ast.parse(path.read_text())
        for path in FAMILY.rglob("*.py")
    }


def is_kernel(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(name, ast.Name) and name.id == "kernel"
        for decorator in node.decorator_list
        for name in ast.walk(decorator)
    )


def names_in(nodes: list[ast.stmt]) -> set[str]:
    return {name.id for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name)}


def test_kernels_hold_nothing_of_modules_that_do_not_count() -> None:
    """A constant or function of a module without kernels could change and leave their code as it was."""
    sources = modules()
    counted = {name for name, tree in sources.items() if any(map(is_kernel, ast.walk(tree)))}
    assert len(counted) > 10
    for module, tree in sources.items():
        if module not in counted:
            continue
        origins: dict[str, str] = {}
        constants: dict[str, ast.stmt] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ripresa"):
                for name in node.names:
                    whole = f"{node.module}.{name.name}"
                    origins[name.asname or name.name] = whole if whole in sources else str(node.module)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = node
        used: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and is_kernel(node):
                used |= names_in(node.body)
        for name in sorted(used & constants.keys()):
            used |= names_in([constants[name]])
        found = {f"{module}: {name} of {origins[name]}" for name in used & origins.keys()}
        assert {one for one in found if one.split(" of ")[1] not in counted} == set()


def test_no_other_module_compiles_in_its_own_way() -> None:
    for module, tree in modules().items():
        imported = {
            name.name if isinstance(node, ast.Import) else str(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in node.names
        }
        assert "numba" not in {name.split(".")[0] for name in imported} or module == f"{NAME}.kernel_compiler"
