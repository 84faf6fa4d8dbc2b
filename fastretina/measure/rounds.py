"""Rounds against the clock: an epoch of a loader, and the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from fastretina.nn.augment import Normaliser
from fastretina.nn.device import Compute
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


class Rate(NamedTuple):
    """A speed, with how far its rounds lie apart.

    Attributes:
        images_per_second: the median of the rounds.
        slowest: round, images/s.
        fastest: round, images/s.
        rounds: that were timed.
    """

    images_per_second: float
    slowest: float
    fastest: float
    rounds: int

    @classmethod
    def of(cls, speeds: Sequence[float]) -> Rate:
        """The rate of some rounds' images/s, at least one."""
        middle = statistics.median(speeds)
        return cls(middle, min(speeds), max(speeds), len(speeds))

    def summary(self) -> dict[str, float]:
        """As the JSON line holds it."""
        return {
            "images_per_second": round(self.images_per_second, 2),
            "slowest": round(self.slowest, 2),
            "fastest": round(self.fastest, 2),
            "rounds": self.rounds,
        }


def rounds(
    work: Callable[[], int], seconds: float, *, most: int = 7, warm_up: bool = True
) -> list[float]:
    """Images/s of rounds of work, until the seconds are over, of one at least.

    Args:
        work: a round; returns how many images it was about.
        seconds: for all rounds; none begins that would end later.
        most: rounds.
        warm_up: whether a round that does not count goes first.
    """
    begun = time.perf_counter()
    if warm_up:
        work()
    speeds: list[float] = []
    lap = 0.0
    while not speeds or (
        len(speeds) < most and time.perf_counter() - begun + lap < seconds
    ):
        start = time.perf_counter()
        images = work()
        lap = time.perf_counter() - start
        speeds.append(images / max(lap, 1e-9))
    return speeds
