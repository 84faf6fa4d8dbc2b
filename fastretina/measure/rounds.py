"""Rounds against the clock: an epoch of a loader, and the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

from fastretina.nn.augment import Normaliser
from fastretina.nn.device import Compute
from loaders import Batch, Loader

FinishLine = Literal["batch", "ready"]
AnyBatch = TypeVar("AnyBatch")


class Drained(NamedTuple):
    """An epoch that was taken to a finish line.

    Attributes:
        images: number of images that crossed the finish line.
        seconds: time until the device had all of them, s.
    """

    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """The speed of the epoch, images/s."""
        return self.images / max(self.seconds, 1e-9)


def drain(loader: Loader, epoch: int, compute: Compute, line: FinishLine) -> Drained:
    """Take an epoch of one of our loaders to *batch* or to *ready*."""
    normalise = Normaliser()

    def take(batch: Batch) -> int:
        if line == "ready":
            normalise(batch.images)
        return len(batch.labels)

    return time_epoch(lambda: loader.epoch(epoch), take, compute.wait)


def time_epoch(
    epoch: Callable[[], Iterable[AnyBatch]],
    take: Callable[[AnyBatch], int],
    wait: Callable[[], None],
) -> Drained:
    """Take the batches of an epoch of any loader.

    The device is waited for before the clock starts, and before it stops.

    Args:
        epoch: begins an epoch; its start belongs to the time.
        take: brings a batch to the finish line; returns how many images it holds.
        wait: returns when the device has done all that it was given.
    """
    wait()
    begun, images = time.perf_counter(), 0
    for batch in epoch():
        images += take(batch)
    wait()
    return Drained(images, time.perf_counter() - begun)


class Rate(NamedTuple):
    """A speed, with how far its rounds lie apart.

    Attributes:
        images_per_second: the median of the rounds, images/s.
        slowest: the slowest round, images/s.
        fastest: the fastest round, images/s.
        rounds: how many were timed.
    """

    images_per_second: float
    slowest: float
    fastest: float
    rounds: int

    @classmethod
    def of(cls, speeds: Sequence[float]) -> Rate:
        """The rate of at least one round, from each round's images/s."""
        middle = statistics.median(speeds)
        return cls(middle, min(speeds), max(speeds), len(speeds))

    def summary(self) -> dict[str, float]:
        """The numbers under their JSON keys, rounded."""
        return {
            "images_per_second": round(self.images_per_second, 2),
            "slowest": round(self.slowest, 2),
            "fastest": round(self.fastest, 2),
            "rounds": self.rounds,
        }


def rounds(
    work: Callable[[], int], seconds: float, *, most: int = 7, warm_up: bool = True
) -> list[float]:
    """Speeds of rounds of work, images/s: as many as fit into the time, at least one.

    Args:
        work: does one round; returns how many images it handled.
        seconds: for all rounds together; none begins that would end later.
        most: rounds that are timed at most.
        warm_up: whether a round that does not count goes first.
    """
    begun = time.perf_counter()
    if warm_up:
        work()
    speeds: list[float] = []
    round_seconds = 0.0
    while not speeds or (
        len(speeds) < most and time.perf_counter() - begun + round_seconds < seconds
    ):
        start = time.perf_counter()
        images = work()
        round_seconds = time.perf_counter() - start
        speeds.append(images / max(round_seconds, 1e-9))
    return speeds
