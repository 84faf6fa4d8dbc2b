"""The pause between two epochs: what a consumer waits for the first batch of the next.

last batch taken, trained on | the next asked for ... the next epoch's first batch
                             |--------------- the pause ---------------|

A loader that takes longer for a batch than the consumer is waited for at each of them,
so the waits within an epoch are measured, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench.data import BenchData
from bench.entrant import Entrant, Round, Runner
from bench.epoch_runner import BATCH
from bench.ours import LoaderSetting, open_loader, our_epochs
from loaders import LOADERS, Batch, Loader
from loaders.cores import granted_cores

PACE = 0.03  # seconds that a batch is "trained" on: 32 images at some 1,000 images/s


def pausing(data: BenchData) -> list[Entrant]:
    """Each of our loaders, with a consumer at the pace of a training."""
    return [
        Entrant(
            name,
            partial(_paced, LoaderSetting(name), data),
            setup={"batch_size": BATCH, "workers": granted_cores()},
        )
        for name in LOADERS
    ]


class PacedRunner:
    """A ``Runner`` whose round is an epoch at a consumer's pace, over its end.

    It sleeps on each batch, so the cores are free meanwhile, as under a GPU; only the
    public contract is used.
    """

    def __init__(self, loader: Loader, images: Runner, pace: float = PACE) -> None:
        """Take an open loader.

        Args:
            loader: what is consumed.
            images: checks the loader's images.
            pace: seconds that a batch is worked on.
        """
        self._loader, self._images, self._pace = loader, images, pace
        self._number = -1
        self._batches: Iterator[Batch] = iter(())

    def check(self) -> str:
        """Every image once, each as Pillow decodes it; then an epoch is begun."""
        pixels = self._images.check()
        self._take(self._begin())
        return pixels

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """What is left of an epoch, and the next one's first batch; see ``Runner``."""
        images, begun = 0, time.perf_counter()
        waits: list[float] = []
        while True:
            asked = time.perf_counter()
            batch = next(self._batches, None)
            if batch is None:
                break
            waits.append(time.perf_counter() - asked)
            images += self._take(batch)
        batch = self._begin()
        pause = time.perf_counter() - asked
        images += self._take(batch)
        # Two processes that make a batch each have both done at once: not the median.
        wait = sorted(waits)[3 * len(waits) // 4] if waits else None
        return Round(images, time.perf_counter() - begun, pause, pause, wait)

    def _begin(self) -> Batch:
        """Begin the next epoch; returns its first batch."""
        self._number += 1
        self._batches = self._loader.epoch(self._number, then=self._number + 1)
        return next(self._batches)

    def _take(self, batch: Batch) -> int:
        time.sleep(self._pace)
        return len(batch.labels)


@contextmanager
def _paced(setting: LoaderSetting, data: BenchData) -> Iterator[PacedRunner]:
    with open_loader(setting, data.shards) as loader:
        yield PacedRunner(loader, our_epochs(loader, data, "batch"))
