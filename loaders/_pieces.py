"""What loaders that read whole shards share: a rank gets a piece of each epoch."""

from __future__ import annotations

from loaders.base import LoaderConfig, Plan, Schedule, Source
from loaders.errors import LoaderError
from loaders.order import EpochOrder, WeightedOrder, flips, rank_slice
from loaders.shards import ShardSplit

# Shards to a window by default. Two of 512 photographs of 53 KB, and the next two being
# read, are 110 MB.
WINDOW = 2


class PieceSchedule(Schedule):
    """Each rank's batches are one piece of the epoch's order, not slices of all.

    So a shard is read by one rank, or by two. A rank's piece is as long as any other's
    but for one sample, and all have the same number of batches.
    """

    def _plan(self, order: EpochOrder | WeightedOrder, epoch: int, number: int) -> Plan:
        config = self.config
        first, last = rank_slice(len(order), config.rank, config.world_size)
        start = first + number * self.local_size
        rows = self.source.rows[order.rows(start, min(start + self.local_size, last))]
        chances = (config.hflip, config.vflip)
        return Plan(rows, flips(config.seed, epoch, rows, chances))


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
