"""The memory of a CUDA device, in bytes; nothing is asked of other devices."""

from __future__ import annotations

import gc

import torch

from fastretina.nn.device import Compute


def release(compute: Compute) -> None:
    """Give back the last network's memory, so that the next one finds room."""
    gc.collect()
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(compute.device)


def used(compute: Compute) -> int:
    """Bytes in use by every process; 0 without a GPU."""
    if compute.device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(compute.device)
    return total - free


def total(compute: Compute) -> int | None:
    """Bytes that the GPU has; None without a GPU."""
    if compute.device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(compute.device)[1]


def taken(compute: Compute, before: int) -> int | None:
    """Bytes in the pools of torch and DALI, which keep the most that was needed.

    None without a GPU; *before* is what was in use before either began.
    """
    if compute.device.type != "cuda":
        return None
    pools = torch.cuda.max_memory_reserved(compute.device)
    return max(used(compute) - before, pools)
