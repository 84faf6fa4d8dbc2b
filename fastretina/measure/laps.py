"""An epoch of a loader against the clock."""

from __future__ import annotations

import time
from typing import Literal

from fastretina.augment import Normaliser
from fastretina.device import Compute
from loaders import Loader

Line = Literal["batch", "ready"]


def drain(
    loader: Loader, epoch: int, compute: Compute, line: Line
) -> tuple[int, float]:
    """Take an epoch to a finish line.

    Returns:
        Its images, and the seconds until the device has all of it.
    """
    images, normalise = 0, Normaliser()
    compute.wait()
    begun = time.perf_counter()
    for batch in loader.epoch(epoch):
        images += len(batch.labels)
        if line == "ready":
            normalise(batch.images)
    compute.wait()
    return images, time.perf_counter() - begun
