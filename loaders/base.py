"""What every loader is: the batch it yields, its protocol, its options, its schedule.

Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from loaders.arrays import Bool, Int64
from loaders.errors import SampleError, ShardError
from loaders.order import EpochOrder, WeightedOrder, flips, grade_weights, rank_slice

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self


class Batch(NamedTuple):
    """One rank's share of a global batch, on the loader's device.

    Valid until the next batch but one is taken, be it from another epoch.

    Attributes:
        images: uint8[B, H, W, C], RGB; ``images.permute(0, 3, 1, 2)`` is a
            channels-last tensor without a copy. Never normalised.
        labels: int64[B], the grades.
        index: int64[B], each sample's row in the split's index.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # tuple.index is not needed


class Decoding(NamedTuple):
    """Who makes a loader's pixels; they are the same where ``jpeg`` and ``resize`` are.

    Attributes:
        by: the package, with its version.
        jpeg: the JPEG decoder: ``libjpeg-turbo``, or ``nvJPEG`` with how it upsamples.
        resize: who resizes; ``None`` where no image has to be.
    """

    by: str
    jpeg: str
    resize: str | None


class Loader(Protocol):
    """A source of batches that can be replayed from any place in any epoch.

    Attributes:
        device: where the batches lie.
        decoding: who makes the pixels.
        skipped: the images left out so far, with ``on_corrupt="skip"``.
        decoded_again: batches so far that the host has decoded, in DALI's place.
    """

    device: torch.device
    decoding: Decoding
    skipped: list[SampleError]
    decoded_again: int

    def __len__(self) -> int:
        """Batches in one epoch, the same on every rank."""

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``first_batch`` on.

        (seed, number) fixes the order. Starting an epoch ends the one before.

        Raises:
            SampleError: an image cannot be decoded, and ``on_corrupt`` is ``raise``;
                with ``skip`` its batch comes without it. The loader stays usable.
        """

    def close(self) -> None:
        """Stop the workers and free the buffers. Safe to call twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Source(Protocol):
    """Where a loader's bytes come from: a ``ShardSplit`` or an image folder.

    Attributes:
        rows: int64[n], the rows to deliver.
        labels: int64[N], grades of all rows.
    """

    rows: Int64
    labels: Int64

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """How many of ``rows`` lie in each shard, in row order."""

    @property
    def dimensions(self) -> tuple[tuple[int, int], ...]:
        """The distinct (height, width) among ``rows``, pixels."""

    def read(self, row: int) -> memoryview | bytes:
        """The JPEG bytes of a row."""

    def failure(self, row: int, reason: str) -> SampleError:
        """The error that names the place of a row."""

    def close(self) -> None:
        """Let go of what is held open; reading opens it again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderConfig:
    """What is delivered, in which order and where to. The defaults evaluate.

    Attributes:
        batch_size: samples per global batch, over all ranks.
        seed: fixes the order and the flips.
        shuffle: a new order in every epoch; otherwise that of the index.
        window: shuffle within this many shards at a time; ``None`` for all of them.
        balance: 0 draws every sample once; above 0, samples are drawn with
            replacement, and 1 draws each grade equally often.
        balance_decay: what ``balance`` is multiplied by after each epoch.
        drop_last: leave out the last batch where it is short.
        hflip: chance of mirroring left-right.
        vflip: chance of mirroring upside-down.
        image_size: resize to this many pixels square; ``None`` keeps the size.
        rank: which of the ranks this is.
        world_size: how many ranks share each global batch.
        device: where the batches go.
        workers: threads or processes that decode; ``None`` for one per granted core.
        prefetch: batches made ahead of the one in use.
        on_corrupt: what an image that cannot be decoded does: ``raise`` a SampleError,
            or ``skip`` it, which leaves its batch shorter and is counted.
        hw_decoder_load: share of the images that a GPU's JPEG engine decodes, under
            DALI; its CUDA cores and the host take the rest.
    """

    batch_size: int = 32
    seed: int = 0
    shuffle: bool = False
    window: int | None = None
    balance: float = 0.0
    balance_decay: float = 1.0
    drop_last: bool = False
    hflip: float = 0.0
    vflip: float = 0.0
    image_size: int | None = None
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    workers: int | None = None
    prefetch: int = 2
    on_corrupt: Literal["raise", "skip"] = "raise"
    hw_decoder_load: float = 0.65

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch size", "be at least 1", self.batch_size)
        for name in ("hflip", "vflip", "balance", "balance_decay", "hw_decoder_load"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name.replace("_", " "), "lie in 0 to 1", value)
        for name, low in (("window", 1), ("image_size", 8), ("workers", 0)):
            value = getattr(self, name)
            ok = value is None or value >= low
            _require(ok, name.replace("_", " "), f"be at least {low}", value)
        _require(self.prefetch >= 1, "prefetch", "be at least 1", self.prefetch)
        _require(self.world_size >= 1, "world size", "be at least 1", self.world_size)
        ok = self.on_corrupt in ("raise", "skip")
        _require(ok, "on corrupt", "be raise or skip", self.on_corrupt)
        ok = 0 <= self.rank < self.world_size
        _require(ok, "rank", f"lie in 0 to {self.world_size - 1}", self.rank)
        ok = self.batch_size % self.world_size == 0
        rule = f"be a multiple of the {self.world_size} ranks"
        _require(ok, "batch size", rule, self.batch_size)
        if self.balance and not self.shuffle:
            raise ValueError(f"balance must be 0 without shuffle, got {self.balance}")


def _require(ok: bool, thing: str, rule: str, value: object) -> None:
    if not ok:
        raise ValueError(f"{thing} must {rule}, got {value}")


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
        """What to load for each batch of the epoch, from ``first_batch`` on."""
        if epoch < 0 or first_batch < 0:
            raise ValueError(
                "epoch and first batch must be at least 0, "
                f"got {epoch} and {first_batch}"
            )
        order = self._order(epoch)
        batches = range(first_batch, len(self))
        return (self._plan(order, epoch, number) for number in batches)

    def _plan(self, order: EpochOrder | WeightedOrder, epoch: int, number: int) -> Plan:
        config = self.config
        start = number * config.batch_size
        drawn = order.rows(start, start + config.batch_size)
        first, last = rank_slice(len(drawn), config.rank, config.world_size)
        rows = self.source.rows[drawn[first:last]]
        # A sample drawn twice in an epoch should not look the same twice.
        repeats = isinstance(order, WeightedOrder)
        keys = np.arange(start + first, start + last) if repeats else rows
        chances = (config.hflip, config.vflip)
        return Plan(rows, flips(config.seed, epoch, keys, chances))

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
