"""Speeds, as medians of timed rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


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
