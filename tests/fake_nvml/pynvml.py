"""nvidia-ml-py itself, over a library that this file makes up: only the driver below it is not real.

First on the path, it takes the place of the package, runs the package's own code and puts `Library` where
that would load libnvidia-ml. What there is on the machine stands in the JSON file that FAKE_NVML names, read
at every call: a list of GPUs with ``uuid``, ``model``, ``address``, ``memory_mb``, ``used_mb``, ``processes``
and ``graphics`` (pairs of process and MB or null), ``error`` (a code that every question about it gets) and
``mig`` (a list of the same, null where there is no instance). Without the file there is no driver.
"""

import ctypes
import json
import os
import sys
from importlib.machinery import PathFinder

_HERE = os.path.dirname(os.path.abspath(__file__))
_PATH = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]
_SPEC = PathFinder.find_spec("pynvml", _PATH)
with open(_SPEC.origin, encoding="utf-8") as _file:
    exec(compile(_file.read(), _SPEC.origin, "exec"), globals())

_OK, _NOT_FOUND, _UNSUPPORTED, _TOO_SMALL, _NO_DRIVER = 0, 6, 3, 7, 9
_MB = 1 << 20
_INSTANCES = 7


class Library:
    """The functions of libnvidia-ml that are asked for, with their arguments as ctypes has them."""

    starts = 0

    @staticmethod
    def nvmlInitWithFlags(flags):
        Library.starts += 1
        return _OK if os.path.exists(os.environ.get("FAKE_NVML", "")) else _NO_DRIVER

    @staticmethod
    def nvmlErrorString(code):
        return {9: b"Driver Not Loaded", 15: b"GPU is lost", 999: b"Unknown Error"}.get(code, b"Error")

    @staticmethod
    def nvmlDeviceGetCount_v2(count):
        count._obj.value = len(_state())
        return _OK

    @staticmethod
    def nvmlDeviceGetHandleByIndex_v2(index, handle):
        if index.value >= len(_state()):
            return _NOT_FOUND
        _give(handle, 1 + index.value)
        return _state()[index.value].get("error", _OK)

    @staticmethod
    def nvmlDeviceGetHandleByUUID(uuid, handle):
        for number, one in _handles():
            if one["uuid"].encode() == uuid.value:
                return _give(handle, number)
        return _NOT_FOUND

    @staticmethod
    def nvmlDeviceGetUUID(handle, text, length):
        text.value = _of(handle)["uuid"].encode()
        return _OK

    @staticmethod
    def nvmlDeviceGetName(handle, text, length):
        text.value = _of(handle).get("model", "NVIDIA A100").encode()
        return _OK

    @staticmethod
    def nvmlDeviceGetPciInfo_v3(handle, info):
        info._obj.busId = b"0000%s" % _of(handle).get("address", "0000:01:00.0").upper().encode()
        return _OK

    @staticmethod
    def nvmlDeviceGetMemoryInfo(handle, memory):
        one = _of(handle)
        there = memory._obj
        there.total = one.get("memory_mb", 1000) * _MB
        there.used = one.get("used_mb", 0) * _MB
        there.free = there.total - there.used
        return one.get("error", _OK)

    nvmlDeviceGetMemoryInfo_v2 = nvmlDeviceGetMemoryInfo

    @staticmethod
    def nvmlDeviceGetMigMode(handle, now, later):
        if "mig" not in _of(handle):
            return _UNSUPPORTED
        now._obj.value = later._obj.value = 1
        return _OK

    @staticmethod
    def nvmlDeviceGetMaxMigDeviceCount(handle, count):
        count._obj.value = _INSTANCES
        return _OK

    @staticmethod
    def nvmlDeviceGetMigDeviceHandleByIndex(handle, index, part):
        parts = _of(handle)["mig"]
        if index.value >= len(parts) or parts[index.value] is None:
            return _NOT_FOUND
        return _give(part, 100 * ctypes.cast(handle, ctypes.c_void_p).value + index.value)

    @staticmethod
    def nvmlDeviceGetComputeRunningProcesses_v3(handle, count, processes):
        return _list(_of(handle).get("processes", []), count, processes)

    @staticmethod
    def nvmlDeviceGetGraphicsRunningProcesses_v3(handle, count, processes):
        return _list(_of(handle).get("graphics", []), count, processes)


def _state():
    with open(os.environ["FAKE_NVML"], encoding="utf-8") as file:
        return json.load(file)


def _handles():
    for index, gpu in enumerate(_state()):
        yield 1 + index, gpu
        for number, part in enumerate(gpu.get("mig", [])):
            if part is not None:
                yield 100 * (1 + index) + number, part


def _of(handle):
    """What a handle stands for: to the package it is a pointer, here a number."""
    return dict(_handles())[ctypes.cast(handle, ctypes.c_void_p).value]


def _give(handle, number):
    ctypes.cast(ctypes.pointer(handle._obj), ctypes.POINTER(ctypes.c_void_p))[0] = number
    return _OK


def _list(given, count, processes):
    if not given:
        count._obj.value = 0
        return _OK
    if processes is None:
        count._obj.value = len(given)
        return _TOO_SMALL
    for place, (pid, used_mb) in enumerate(given):
        processes[place].pid = pid
        processes[place].usedGpuMemory = 2**64 - 1 if used_mb is None else used_mb * _MB
    count._obj.value = len(given)
    return _OK


nvmlLib = Library
