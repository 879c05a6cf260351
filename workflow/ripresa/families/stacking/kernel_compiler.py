"""From a kernel to machine code, by numba."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np

from ripresa.families.stacking.kernel_store import ENTRY, Machine
from ripresa.families.stacking.kernels import Kernel

_compiled: dict[Kernel, Any] = {}


def compile(kernel: Kernel, signature: str) -> Machine:
    """Compile a kernel as a function of C for arguments of these types."""
    taken, passed, c_types, wanted = [], [], [], []
    for number, kind in enumerate(_parts(signature)):
        argument = _Argument(f"a{number}")
        wanted.append(argument.take(kind))
        taken += argument.names
        passed.append(argument.value)
        c_types += argument.c_types
    function = _dispatcher(kernel)
    function.compile(tuple(wanted))
    returns = function.overloads[tuple(wanted)].signature.return_type
    # `done` tells of an exception, which a function of C cannot raise.
    source = f"def {ENTRY}({', '.join([*taken, 'done'])}):\n"
    source += f"    result = function({', '.join(passed)})\n    done[0] = 1\n    return result\n"
    names: dict[str, Any] = {"function": function, "carray": numba.carray}
    exec(source, names)
    entry = numba.cfunc(returns(*c_types, numba.types.CPointer(numba.types.int64)))(names[ENTRY])
    letters = None if returns is numba.types.none else np.dtype(str(returns)).str[1:]
    return _emit(entry, letters)


def _emit(entry: Any, returns: str | None) -> Machine:
    module = llvm.parse_assembly(entry.inspect_llvm())
    module.get_function(entry.native_name).name = ENTRY
    module.verify()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        jit=True,
    )
    values = [*module.functions, *module.global_variables]
    needs = [value.name for value in values if value.is_declaration and not value.name.startswith("llvm.")]
    return Machine(machine.emit_object(module), returns, needs)


def _dispatcher(kernel: Kernel) -> Any:
    """numba's own object for a kernel, for which the other kernels that it calls are numba's too."""
    if kernel not in _compiled:
        function = kernel.function
        known = dict(function.__globals__)
        for name in function.__code__.co_names:
            if isinstance(known.get(name), Kernel):
                known[name] = _dispatcher(known[name])
        copy = types.FunctionType(
            function.__code__, known, function.__name__, function.__defaults__, function.__closure__
        )
        _compiled[kernel] = numba.njit(nogil=True, **kernel.options)(copy)
    return _compiled[kernel]


class _Argument:
    """How an argument of a kernel arrives in C."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names: list[str] = []
        self.c_types: list[Any] = []
        self.value = name

    def take(self, kind: str) -> Any:
        """Note an argument of this type (see `kernels._type`); returns numba's type."""
        if kind.startswith("("):
            parts = []
            values = []
            for number, part in enumerate(_parts(kind[1:-1])):
                inner = _Argument(f"{self.name}_{number}")
                parts.append(inner.take(part))
                self.names += inner.names
                self.c_types += inner.c_types
                values.append(inner.value)
            self.value = f"({''.join(value + ', ' for value in values)})"
            return numba.types.BaseTuple.from_types(parts)
        letters, _, dimensions = kind.partition(":")
        one = numba.from_dtype(np.dtype(letters))
        if not dimensions:
            self.names = [self.name]
            self.c_types = [one]
            return one
        shape = [f"{self.name}_{number}" for number in range(int(dimensions))]
        self.names = [self.name, *shape]
        self.c_types = [numba.types.CPointer(one)] + [numba.types.int64] * len(shape)
        self.value = f"carray({self.name}, ({''.join(name + ', ' for name in shape)}))"
        return numba.types.Array(one, len(shape), "C")


def _parts(signature: str) -> Iterator[str]:
    """The types in a list of some, of which a tuple is one."""
    depth, begin = 0, 0
    for at, letter in enumerate(signature + ","):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            if at > begin:
                yield signature[begin:at]
            begin = at + 1
