"""How much room there is for decoded images: in memory, on a GPU, on a disk."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import psutil
import torch

# Of what is free when a loader is opened: the network and its batches come later.
_MEMORY, _DEVICE, _DISK = 0.7, 0.5, 0.5
_ASKED_FOR = 0.95  # the same where a number of GB was given
_GB = 1_000_000_000
_CGROUP = Path("/sys/fs/cgroup")


def memory_room(gb: float | None, ranks: int) -> int:
    """Bytes of host memory to use at most; ranks share what is free.

    Args:
        gb: the most that was asked for, GB; ``None`` for a share of what is free.
        ranks: processes that may do the same on this machine.
    """
    return _bounded(gb, _free_memory() / ranks, _MEMORY)


def device_room(gb: float | None, device: torch.device) -> int:
    """The same of a device's own memory."""
    if device.type == "cuda":
        return _bounded(gb, torch.cuda.mem_get_info(device)[0], _DEVICE)
    return _bounded(gb, _free_memory(), _DEVICE)  # Apple's GPU shares it


def disk_room(gb: float | None, folder: Path, taken: int) -> int:
    """The same of a folder's disk, those ``taken`` bytes included that it holds."""
    return _bounded(gb, shutil.disk_usage(folder).free + taken, _DISK)


def _bounded(gb: float | None, free: float, share: float) -> int:
    if gb is None:
        return int(share * free)
    return int(min(round(gb * _GB), _ASKED_FOR * free))


def _free_memory() -> int:
    """Bytes that this process may still take; files in the page cache are free."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError, KeyError):  # no cgroup v2, or no limit
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        files = int(dict(line.split() for line in lines)["inactive_file"])
        free = min(free, limit - used + files)
    return max(free, 0)
