"""Which device, and which precision on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from fastretina.recipe import Amp, Precision
from loaders.device import find_device
from loaders.errors import DataError, LoaderError

_DTYPES: dict[Precision, torch.dtype | None] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": None,
}
_FLAGS: dict[Precision, Amp] = {"bf16": "bf16", "fp16": "fp16", "fp32": "off"}


class DeviceError(DataError):
    """A device or precision that is not to be had here."""


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and the precision to train in.

    Attributes:
        device: where model and batches live.
        dtype: what autocast computes in; ``None`` runs in float32.
    """

    device: torch.device
    dtype: torch.dtype | None

    def autocast(self) -> AbstractContextManager[object]:
        """The context for a forward pass."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss in fp16, and does nothing otherwise."""
        return torch.amp.GradScaler(
            self.device.type, enabled=self.dtype is torch.float16
        )

    def wait(self) -> None:
        """Wait for the device to end what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @property
    def precision(self) -> Precision:
        """The precision of a forward pass."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    def in_precision(self, precision: Precision) -> Compute:
        """The same device in another precision, even one that it only emulates."""
        return Compute(self.device, _DTYPES[precision])


def choose(device: str, amp: Amp) -> Compute:
    """Resolve ``--device`` and ``--amp``.

    Args:
        device: ``auto``, or what torch calls it, e.g. ``cuda:1``.
        amp: ``auto``, ``bf16``, ``fp16`` or ``off``.

    Raises:
        DeviceError: there is no such device here, or it lacks that precision.
    """
    found = _find(device)
    if amp == "off":
        return Compute(found, None)
    if amp == "bf16" and not _has_bf16(found):
        raise DeviceError(f"--amp bf16 is not supported on {found}; choose fp16 or off")
    if amp == "fp16" and found.type != "cuda":
        raise DeviceError(f"--amp fp16 must be used on a GPU, got {found}")
    if amp == "bf16" or (amp == "auto" and _has_bf16(found)):
        return Compute(found, torch.bfloat16)
    return Compute(found, torch.float16 if found.type == "cuda" else None)


def choose_again(device: str, precision: Precision) -> Compute:
    """Resolve ``--device``, with a run's precision where the device has it.

    Raises:
        DeviceError: there is no such device here.
    """
    try:
        return choose(device, _FLAGS[precision])
    except DeviceError:
        return choose(device, "off")


def _find(device: str) -> torch.device:
    """The loaders' device of that name, so that batches need not be moved again."""
    try:
        return find_device(device)
    except (ValueError, LoaderError) as error:
        raise DeviceError(f"--{error}") from error


def _has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16, rather than merely emulating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return _cpu_has_bf16()
    return False  # MPS: float32, as bf16 autocast is young there


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX; without them bf16 is slower than float32."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10 can't tell
        return False
    capability = torch.cpu.get_capabilities()
    return any(capability.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
