"""Which samples each batch holds: the schedule that all loaders share.

    for plan in Schedule(source, config).plans(epoch=0):
        plan.rows, plan.flips       # int64[B] and bool[B, 2]

``PieceSchedule`` is for loaders that read whole shards. Importing this module imports
no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loaders.arrays import Bool, Int64
from loaders.base import LoaderConfig, Source
from loaders.device import find_device
from loaders.errors import LoaderError, ShardError
from loaders.order import EpochOrder, WeightedOrder, flips, grade_weights, rank_slice
from loaders.shards import ShardSplit

if TYPE_CHECKING:
    import torch

# Shards to a window by default, for loaders that read whole shards. Two of 512
# photographs of 53 KB, and the next two being read, are 110 MB.
DEFAULT_WINDOW = 2

_PLANNED_AT_ONCE = 16  # batches: 0.3 us an image, where each by itself took 6


class Plan(NamedTuple):
    """One rank's share of a global batch, before anything is read.

    Attributes:
        rows: int64[B] rows of the source.
        flips: bool[B, 2], left-right and upside-down.
    """

    rows: Int64
    flips: Bool


@dataclass(frozen=True)
class Schedule:
    """Which samples each batch holds: all that loaders agree on, computed once for all.

    Raises:
        ShardError: the images differ in size, so that no batch can hold them.
    """

    source: Source
    config: LoaderConfig

    def __post_init__(self) -> None:
        sizes = self.source.dimensions
        if self.config.image_size is None and len(sizes) > 1:
            some = ", ".join(f"{w}x{h}" for h, w in sizes[:3])
            raise ShardError(
                f"the images have {len(sizes)} different sizes ({some}, ...), so they "
                "do not fit in one batch: pass --image-size, or shard with --size"
            )

    def __len__(self) -> int:
        samples, size = len(self.source.rows), self.config.batch_size
        return samples // size if self.config.drop_last else -(-samples // size)

    @cached_property
    def device(self) -> torch.device:
        """Where the batches go; looked for when it is first asked for.

        Raises:
            LoaderError: it is not here.
        """
        return find_device(self.config.device)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Height and width of the delivered images, pixels."""
        if self.config.image_size is not None:
            return self.config.image_size, self.config.image_size
        return self.source.dimensions[0] if self.source.dimensions else (0, 0)

    @property
    def resizes(self) -> bool:
        """Whether any image has another size than it is delivered in."""
        return any(size != self.shape for size in self.source.dimensions)

    @property
    def local_size(self) -> int:
        """Samples in a full batch of this rank."""
        return self.config.batch_size // self.config.world_size

    def plans(self, epoch: int, first_batch: int = 0) -> Iterator[Plan]:
        """What to load for each batch of the epoch, from ``first_batch`` on.

        Raises:
            ValueError: ``epoch`` or ``first_batch`` is negative.
        """
        check_start(epoch, first_batch)
        return self._plans(self._order(epoch), epoch, first_batch)

    def _plans(
        self, order: EpochOrder | WeightedOrder, epoch: int, first_batch: int
    ) -> Iterator[Plan]:
        config = self.config
        for first in range(first_batch, len(self), _PLANNED_AT_ONCE):
            numbers = range(first, min(first + _PLANNED_AT_ONCE, len(self)))
            drawn = [self._drawn(order, number) for number in numbers]
            keys = np.concatenate([batch.keys for batch in drawn])
            mirrored = flips(config.seed, epoch, keys, (config.hflip, config.vflip))
            start = 0
            for rows, _ in drawn:
                yield Plan(rows, mirrored[start : start + len(rows)])
                start += len(rows)

    def _drawn(self, order: EpochOrder | WeightedOrder, number: int) -> _Drawn:
        """One rank's share of a global batch."""
        config = self.config
        start = number * config.batch_size
        places = order.rows(start, start + config.batch_size)
        first, last = rank_slice(len(places), config.rank, config.world_size)
        rows = self.source.rows[places[first:last]]
        # A sample drawn twice in an epoch should not look the same twice.
        repeats = isinstance(order, WeightedOrder)
        return _Drawn(rows, np.arange(start + first, start + last) if repeats else rows)

    def _order(self, epoch: int) -> EpochOrder | WeightedOrder:
        config = self.config
        share = config.balance * config.balance_decay**epoch
        if config.balance and len(self.source.rows):
            weights = grade_weights(self.source.labels[self.source.rows], share)
            return WeightedOrder(
                cumulative=np.cumsum(weights), seed=config.seed, epoch=epoch
            )
        return EpochOrder(
            sizes=self.source.shard_sizes,
            seed=config.seed,
            epoch=epoch,
            shuffle=config.shuffle,
            window=config.window,
        )


class PieceSchedule(Schedule):
    """Each rank's batches are one piece of the epoch's order, not slices of all.

    So a shard is read by one rank, or by two. A rank's piece is as long as any other's
    but for one sample, and all have the same number of batches.
    """

    def _drawn(self, order: EpochOrder | WeightedOrder, number: int) -> _Drawn:
        config = self.config
        first, last = rank_slice(len(order), config.rank, config.world_size)
        start = first + number * self.local_size
        rows = self.source.rows[order.rows(start, min(start + self.local_size, last))]
        return _Drawn(rows, rows)


class _Drawn(NamedTuple):
    """The rows of a batch, and what their flips are drawn for: int64[B] each."""

    rows: Int64
    keys: Int64


def whole_shards(name: str, source: Source, config: LoaderConfig) -> ShardSplit:
    """The source, if it can be read shard by shard.

    Raises:
        ValueError: ``balance`` is asked for, which may need a shard many times.
        LoaderError: the source holds no shards.
    """
    if config.balance:
        raise ValueError(
            f"balance must be 0 with the {name} loader, which reads every shard once "
            f"an epoch, got {config.balance}"
        )
    if not isinstance(source, ShardSplit):
        raise LoaderError(f"the {name} loader reads shards, not image folders")
    return source


def check_start(epoch: int, first_batch: int) -> None:
    """Refuse a negative place to begin at.

    Raises:
        ValueError: ``epoch`` or ``first_batch`` is negative.
    """
    if epoch < 0 or first_batch < 0:
        raise ValueError(
            f"epoch and first batch must be at least 0, got {epoch} and {first_batch}"
        )
