"""The decorator of all compiled loops.

A kernel is compiled by numba when it is called first with arguments of some types, and its machine code is
kept for all later processes (kernel_store.py), which link and call it without numba: importing numba and
making it ready takes longer than most phases compute.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, overload

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

_SCALARS: dict[str, Any] = {
    "b1": ctypes.c_bool,
    "i8": ctypes.c_int64,
    "f4": ctypes.c_float,
    "f8": ctypes.c_double,
}


class Kernel:
    """A compiled function of C-contiguous arrays, numbers and tuples of both, which returns at most a number.

    Called by another kernel it is part of that one.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function = function
        self.options = options
        """Of numba's njit."""
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        self.__doc__ = function.__doc__
        self._linked: dict[str, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        signature = ",".join([_type(argument, self.name) for argument in arguments])
        call = self._linked.get(signature)
        if call is None:
            call = self._linked[signature] = self._link(signature)
        done = ctypes.c_int64(0)
        result = call(*_flat(arguments), ctypes.addressof(done))
        if not done.value:  # C knows no exceptions: numba has printed what it was
            raise RuntimeError(f"the kernel {self.name} failed: division by zero, or no memory")
        return result

    def _link(self, signature: str) -> Callable[..., Any]:
        from ripresa.families.stacking import kernel_store

        code = kernel_store.load(self, signature)
        result = _SCALARS[code.returns] if code.returns else None
        return ctypes.CFUNCTYPE(result, *_c_types(signature))(code.address)


def _type(argument: Any, name: str) -> str:
    """The type of an argument in numpy's letters: ``f8``, ``f4:2`` for two dimensions, ``(i8,f4:1)``."""
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise TypeError(f"the kernel {name} takes contiguous arrays only")
        return f"{argument.dtype.str[1:]}:{argument.ndim}"
    if isinstance(argument, float):  # numpy.float64 too
        return "f8"
    if isinstance(argument, bool | np.bool_):
        return "b1"
    if isinstance(argument, int | np.int64):
        return "i8"
    if isinstance(argument, np.float32):
        return "f4"
    if isinstance(argument, tuple):
        return f"({','.join([_type(part, name) for part in argument])})"
    raise TypeError(f"the kernel {name} takes no {type(argument).__name__}")


def _flat(arguments: tuple[Any, ...]) -> Iterator[Any]:
    """What C is given: for an array its address and its shape."""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield argument.__array_interface__["data"][0]
            yield from argument.shape
        elif isinstance(argument, tuple):
            yield from _flat(argument)
        else:
            yield argument


def _c_types(signature: str) -> Iterator[Any]:
    for part in signature.replace("(", "").replace(")", "").split(","):
        kind, _, dimensions = part.partition(":")
        if dimensions:
            yield ctypes.c_void_p
            yield from [ctypes.c_int64] * int(dimensions)
        elif kind:  # an empty tuple has none
            yield _SCALARS[kind]
    yield ctypes.c_void_p


@overload
def kernel(function: Function, /) -> Function: ...


@overload
def kernel(**options: Any) -> Callable[[Function], Function]: ...


def kernel(function: Any = None, /, **options: Any) -> Any:
    """Make a function a kernel; ``options`` are those of numba's njit."""
    if function is None:
        return lambda function: Kernel(function, options)
    return Kernel(function, options)
