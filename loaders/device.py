"""Which device a word stands for, the same for loaders and for whoever trains.

Importing this module imports no torch; looking for a device does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from loaders.arrays import Int64
from loaders.errors import LoaderError

if TYPE_CHECKING:
    import torch

_REMEDY = "auto takes what is there"
_NAME = re.compile(r"auto|(cpu|cuda|mps)(:\d{1,2})?")


def check_device_name(name: str) -> None:
    """Refuse what can't be meant as a device, without a look at what is here.

    Raises:
        ValueError: it is none of ``auto``, ``cpu``, ``cuda``, ``cuda:N`` and ``mps``.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")


def find_device(name: str) -> torch.device:
    """The device that a name stands for here; a GPU has its number.

    Args:
        name: ``auto`` for a GPU if torch sees one, else the processor; ``cuda`` for
            this process's own GPU; or what torch calls a device, e.g. ``cuda:1``.

    Raises:
        ValueError: no device has such a name.
        LoaderError: it is not here.
    """
    import torch

    check_device_name(name)
    on_cuda = torch.cuda.is_available()
    if name in ("auto", "cuda") and on_cuda:
        return torch.device("cuda", torch.cuda.current_device())
    on_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("mps" if on_mps else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise LoaderError(
            f"device {name} is not here: {count} CUDA devices found; {_REMEDY}"
        )
    if device.type == "mps" and not on_mps:
        raise LoaderError(f"device {name} is not here: no Apple GPU found; {_REMEDY}")
    return device


def on_device(values: Int64, device: torch.device) -> torch.Tensor:
    """Whole numbers, int64[n], on a device whose work so far is not waited for."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
