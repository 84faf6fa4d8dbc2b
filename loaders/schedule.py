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

# Rows that are drawn at once: 0.2 us each, where a batch of 32 by itself took 6.
_DRAWN_AT_ONCE = 2_048


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
    def decoded_shape(self) -> tuple[int, int] | None:
        """What a JPEG must have for its size to fit unresized; None if any fits."""
        return None if self.resizes else self.shape

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
        at_once = max(1, _DRAWN_AT_ONCE // self.local_size)
        for first in range(first_batch, len(self), at_once):
            last = min(first + at_once, len(self))
            drawn = self._drawn(order, range(first, last))
            mirrored = flips(
                config.seed, epoch, drawn.keys, (config.hflip, config.vflip)
            )
            start = 0
            for size in drawn.sizes:
                end = start + size
                yield Plan(drawn.rows[start:end], mirrored[start:end])
                start = end

    def _drawn(self, order: EpochOrder | WeightedOrder, numbers: range) -> _Drawn:
        """One rank's shares of some global batches, one after the other."""
        size = self.config.batch_size
        first = numbers.start * size
        rows = self.source.rows[order.rows(first, numbers.stop * size)]
        # A sample drawn twice in an epoch should not look the same twice.
        repeats = isinstance(order, WeightedOrder)
        keys = np.arange(first, first + len(rows)) if repeats else rows
        if self.config.world_size == 1:
            return _Drawn(rows, keys, _sizes(len(rows), size, len(numbers)))
        shares = [self._share(len(rows), start) for start in range(0, len(rows), size)]
        own = np.concatenate([np.arange(*share) for share in shares])
        return _Drawn(rows[own], keys[own], [end - start for start, end in shares])

    def _share(self, size: int, start: int) -> tuple[int, int]:
        """Where this rank's share of the batch at ``start`` of ``size`` rows is."""
        config = self.config
        size = min(config.batch_size, size - start)
        first, last = rank_slice(size, config.rank, config.world_size)
        return start + first, start + last

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

    def _drawn(self, order: EpochOrder | WeightedOrder, numbers: range) -> _Drawn:
        config = self.config
        first, last = rank_slice(len(order), config.rank, config.world_size)
        start, end = (
            first + n * self.local_size for n in (numbers.start, numbers.stop)
        )
        rows = self.source.rows[order.rows(start, min(end, last))]
        return _Drawn(rows, rows, _sizes(len(rows), self.local_size, len(numbers)))


class _Drawn(NamedTuple):
    """The rows of some batches, one after the other.

    Attributes:
        rows: int64[n].
        keys: int64[n], what their flips are drawn for.
        sizes: how many of them each batch has.
    """

    rows: Int64
    keys: Int64
    sizes: list[int]


def _sizes(rows: int, size: int, batches: int) -> list[int]:
    """How many rows each batch has, where all but the last are full."""
    return [max(0, min(size, rows - n * size)) for n in range(batches)]


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
