"""Host memory for the batches that are alive at once, filled again and again."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from loaders.schedule import Schedule


def new_ring(schedule: Schedule) -> deque[torch.Tensor]:
    """Room for ``prefetch + 2`` batches, the next to be filled first.

    Those are the ones being made, the one in use and the one before it, which is still
    valid: uint8[B, H, W, 3] each, pinned where a GPU takes them.
    """
    return deque(_slot(schedule) for _ in range(schedule.config.prefetch + 2))


def _slot(schedule: Schedule) -> torch.Tensor:
    size = (schedule.local_size, *schedule.shape, 3)
    if schedule.device.type == "cuda":
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    # NumPy asks Linux for huge pages, torch does not: 8 % with flips.
    return torch.from_numpy(np.empty(size, np.uint8))
