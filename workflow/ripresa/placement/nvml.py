"""NVIDIA GPUs as their management library (NVML) tells of them, in the order of their PCI addresses.

The library is initialised once in a process, which takes long, and asked again as often as wanted, which does
not. Where there is none, or no driver, there are no GPUs.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

MB = 1 << 20
UUIDS = ("GPU-", "MIG-")
"""What UUIDs begin with."""


class Process(NamedTuple):
    """A process that computes on a GPU."""

    pid: int
    used_mb: int | None
    """Device memory; None where the driver does not tell."""


class Gpu(NamedTuple):
    """A GPU, or a MIG instance of one."""

    uuid: str
    """Made up if it was lost before anybody asked."""
    number: int
    """Of the GPU, from 0 by PCI address; instances have that of theirs."""
    model: str = ""
    memory_mb: int = 0
    free_mb: int = 0
    address: str = ""
    """Of its PCI slot, as `shortened` has it."""
    parent: str = ""
    """The UUID of the GPU that an instance belongs to."""
    problem: str = ""
    """What NVML says of one that cannot be used."""


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
                known = self._known.get(index, Gpu(f"lost-{index}", index))
                found.append(known._replace(free_mb=0, problem=str(error)))
        return found

    def knows(self, uuid: str) -> bool:
        """Whether there is such a GPU, and it answers."""
        try:
            self._library.nvmlDeviceGetMemoryInfo(self._library.nvmlDeviceGetHandleByUUID(uuid))
        except self._library.NVMLError:
            return False
        return True

    def processes(self, uuid: str) -> list[Process]:
        """Who computes on a GPU now; empty where that cannot be told."""
        return self._running(self._library.nvmlDeviceGetComputeRunningProcesses, uuid)

    def desktop(self, uuid: str) -> list[Process]:
        """Who draws with a GPU now, which most often is the screen of the machine."""
        return self._running(self._library.nvmlDeviceGetGraphicsRunningProcesses, uuid)

    def _running(self, ask: Any, uuid: str) -> list[Process]:
        try:
            found = ask(self._library.nvmlDeviceGetHandleByUUID(uuid))
        except self._library.NVMLError:
            return []
        used = [None if one.usedGpuMemory is None else one.usedGpuMemory // MB for one in found]
        return [Process(one.pid, amount) for one, amount in zip(found, used, strict=True)]

    def _ask(self, index: int) -> list[Gpu]:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        uuid, model = library.nvmlDeviceGetUUID(handle), library.nvmlDeviceGetName(handle)
        address = shortened(library.nvmlDeviceGetPciInfo(handle).busId)
        whole = self._known[index] = Gpu(uuid, index, model, address=address)
        if not self._is_split(handle):
            return [self._with_memory(whole, handle)]
        parts = []
        for number in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                part = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except library.NVMLError:  # no instance there
                continue
            name = library.nvmlDeviceGetName(part)
            one = whole._replace(uuid=library.nvmlDeviceGetUUID(part), model=name, parent=uuid)
            parts.append(self._with_memory(one, part))
        return parts or [whole._replace(problem="it is in MIG mode and has no instances")]

    def _is_split(self, handle: Any) -> bool:
        try:
            return bool(self._library.nvmlDeviceGetMigMode(handle)[0] == self._library.NVML_DEVICE_MIG_ENABLE)
        except self._library.NVMLError:  # most models cannot be split
            return False

    def _with_memory(self, gpu: Gpu, handle: Any) -> Gpu:
        try:
            # Without what the driver reserves, which drivers before 510 count as used.
            memory = self._library.nvmlDeviceGetMemoryInfo(handle, self._library.nvmlMemory_v2)
        except self._library.NVMLError as error:
            if error.value != self._library.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            memory = self._library.nvmlDeviceGetMemoryInfo(handle)
        return gpu._replace(memory_mb=memory.total // MB, free_mb=memory.free // MB)


def shortened(address: str | bytes) -> str:
    """A PCI address as the kernel's messages have it: ``0000:3b:00``."""
    text = address.decode() if isinstance(address, bytes) else address
    return text.lower().partition(".")[0][-10:]


def nvml() -> Nvml | None:
    """The library of this process; None where there is none, or no driver that answers it."""
    return _start()[0]


def refusal() -> str:
    """Why the library does not work although it is there; empty if it does, or there is none."""
    return _start()[1]


@cache
def _start() -> tuple[Nvml | None, str]:
    try:
        import pynvml
    except ImportError:
        return None, ""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        return None, "" if error.value in absent else str(error)
    return Nvml(pynvml), ""


def main() -> None:
    """Print the GPUs of this machine and those of their instances as JSON: UUID, PCI address and problem."""
    import json

    library = nvml()
    gpus = library.gpus() if library else []
    print(json.dumps([(gpu.uuid, gpu.address, gpu.problem) for gpu in gpus]))


if __name__ == "__main__":
    main()
