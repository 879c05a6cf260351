"""NVIDIA GPUs as their management library (NVML) tells of them, in the order of their PCI addresses.

The library is initialised once in a process, which takes long, and asked again as often as wanted, which does
not. Where there is none, or no driver, there are no GPUs.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

MB = 1 << 20


class Process(NamedTuple):
    """A process that computes on a GPU."""

    pid: int
    used_mb: int | None
    """Device memory; None where the driver does not tell."""


class Gpu(NamedTuple):
    """A GPU, or a MIG instance of one."""

    uuid: str
    """Empty if it was lost before anybody asked."""
    index: int
    """Of the GPU, by PCI address; instances have that of theirs."""
    model: str = ""
    memory_mb: int = 0
    free_mb: int = 0
    capability: tuple[int, int] = (0, 0)
    parent: str = ""
    """The UUID of the GPU that an instance belongs to."""
    problem: str = ""
    """What NVML says of one that cannot be used."""
    handle: Any = None


class Nvml:
    """The library, initialised."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._known: dict[int, Gpu] = {}
        """The GPUs as they were when they could last be asked, by index."""

    def gpus(self) -> list[Gpu]:
        """All GPUs as they are now. One in MIG mode is not among them, but its instances are."""
        found: list[Gpu] = []
        for index in range(self._library.nvmlDeviceGetCount()):
            try:
                found += self._ask(index)
            except self._library.NVMLError as error:
                known = self._known.get(index, Gpu("", index))
                found.append(known._replace(free_mb=0, problem=str(error)))
        return found

    def processes(self, gpu: Gpu) -> list[Process]:
        """Who computes on a GPU now; empty where that cannot be told."""
        return self._running(self._library.nvmlDeviceGetComputeRunningProcesses, gpu)

    def desktop(self, gpu: Gpu) -> list[Process]:
        """Who draws with a GPU now, which most often is the screen of the machine."""
        return self._running(self._library.nvmlDeviceGetGraphicsRunningProcesses, gpu)

    def _running(self, ask: Any, gpu: Gpu) -> list[Process]:
        try:
            found = ask(gpu.handle)
        except self._library.NVMLError:
            return []
        used = [None if one.usedGpuMemory is None else one.usedGpuMemory // MB for one in found]
        return [Process(one.pid, amount) for one, amount in zip(found, used, strict=True)]

    def _ask(self, index: int) -> list[Gpu]:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        uuid, model = library.nvmlDeviceGetUUID(handle), library.nvmlDeviceGetName(handle)
        whole = Gpu(uuid, index, model, handle=handle)
        self._known[index] = whole
        whole = whole._replace(capability=tuple(library.nvmlDeviceGetCudaComputeCapability(handle)))
        if not self._is_split(handle):
            return [self._with_memory(whole)]
        parts = []
        for number in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                part = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except library.NVMLError:  # no instance there
                continue
            name = library.nvmlDeviceGetName(part)
            found = whole._replace(uuid=library.nvmlDeviceGetUUID(part), model=name, parent=uuid, handle=part)
            parts.append(self._with_memory(found))
        return parts

    def _is_split(self, handle: Any) -> bool:
        try:
            return bool(self._library.nvmlDeviceGetMigMode(handle)[0] == self._library.NVML_DEVICE_MIG_ENABLE)
        except self._library.NVMLError:  # most models cannot be split
            return False

    def _with_memory(self, gpu: Gpu) -> Gpu:
        try:
            # Without what the driver reserves, which drivers before 510 count as used.
            memory = self._library.nvmlDeviceGetMemoryInfo(gpu.handle, self._library.nvmlMemory_v2)
        except self._library.NVMLError as error:
            if error.value != self._library.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            memory = self._library.nvmlDeviceGetMemoryInfo(gpu.handle)
        return gpu._replace(memory_mb=memory.total // MB, free_mb=memory.free // MB)


@cache
def nvml() -> Nvml | None:
    """The library of this process; None where there is none, or no driver that answers it."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return Nvml(pynvml)
