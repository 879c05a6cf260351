"""Which backend computes an experiment: PyTorch where there is a GPU for it, else NumPy.

`auto` looks for a GPU before it looks for PyTorch, whose import takes a second. `torch` may be asked for on a
CPU, too; the results are the same within rounding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ripresa.families.experiments import ExperimentError

if TYPE_CHECKING:
    from ripresa.families.experiments.federated import Backend

NAMES = ("auto", "numpy", "torch")
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def choose(name: str, parameters: Mapping[str, Any], micro_batch: int) -> Backend[Any]:
    """The backend of that name. ExperimentError if it is `torch` and that is not installed."""
    gpu = gpu_is_visible(os.environ)
    installed = find_spec("torch") is not None
    if name == "torch" and not installed:
        raise ExperimentError(
            "backend torch: PyTorch is not installed: install the extra `torch`, or choose auto or numpy"
        )
    if name == "torch" or (name == "auto" and gpu and installed):
        import torch

        built = torch.version.cuda is not None or torch.version.hip is not None
        if name == "torch" or built:
            from ripresa.families.experiments.torch_backend import TorchBackend

            return TorchBackend(parameters, micro_batch, "cuda" if gpu and built else "cpu")
    from ripresa.families.experiments.numpy_backend import NumpyBackend

    return NumpyBackend(parameters, micro_batch)


def gpu_is_visible(environment: Mapping[str, str]) -> bool:
    """Whether this process may use a GPU: the driver is there, and the variables of the devices name one.

    A slot of the CPU is given as a name that begins with `cpu`, or as no device at all.
    """
    told = [environment[name] for name in _VISIBLE if name in environment]
    if any(value in ("", "-1") or value.startswith("cpu") for value in told):
        return False
    return bool(told) or any(map(os.path.exists, _DRIVERS))
