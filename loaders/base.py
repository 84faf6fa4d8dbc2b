"""The contract of every loader: the batch it yields, its protocol, options and source.

A batch comes about in these stages; what each loader runs them with differs:

    index --> order --> plan      --> read   --> decode       --> flip --> collate
    rows      int64[N]  rows,         JPEG       uint8            uint8    |
    of the    of an     flips of      bytes of   [H, W, 3],       [H, W,   |
    split     epoch     one batch     a row      resized if       3]       |
    |______|  |__________________|    |____|     asked for                 |
     Source         Schedule          Source                               v
                                                Batch  <-- copy <-- uint8[B, H, W, 3]
                                                on the device       in host memory

DALI on a GPU decodes there, so its batches need no copy. Importing this module imports
no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from loaders.arrays import Int64
from loaders.device import check_device_name
from loaders.errors import SampleError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self


Jpeg = memoryview | bytes  # an image's bytes, as they are stored


class Reading(NamedTuple):
    """How a batch's images are read, one by one and in any thread.

    Attributes:
        read: the bytes of the batch's n-th image. It raises ``SampleError`` where they
            are not those that the source's checksum is of.
    """

    read: Callable[[int], Jpeg]


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


@dataclass(frozen=True, slots=True)
class Decoding:
    """Who makes a loader's pixels; they are the same where ``jpeg`` and ``resize`` are.

    Attributes:
        by: the package, with its version.
        jpeg: the JPEG decoder: ``libjpeg-turbo``, or ``nvJPEG`` with how it upsamples.
        resize: who resizes; ``None`` where no image has to be.
        hw_decoder_load: share of the images that a GPU's JPEG engine is given; ``None``
            where no GPU decodes.
    """

    by: str
    jpeg: str
    resize: str | None
    hw_decoder_load: float | None = None


class KeptImages(NamedTuple):
    """Where a loader keeps decoded images, and how many of them have room there.

    Attributes:
        place: ``device``, ``memory`` or the folder.
        images: images that have room.
        wanted: images that the loader delivers.
        image_bytes: size of each.
    """

    place: str
    images: int
    wanted: int
    image_bytes: int


class Loader(Protocol):
    """A source of batches that can be replayed from any place in any epoch.

    Attributes:
        device: where the batches lie; what ``auto`` has turned out to be.
        decoding: who makes the pixels.
        skipped: the images left out of the batches handed out so far, with
            ``on_corrupt="skip"``.
        decoded_again: how many of these batches the host has decoded, as DALI has
            failed on them, or may not be given one of their images; under ``dali``
            alone, and 0 elsewhere.
        kept: what it keeps of the images that it has decoded; ``None`` without a cache.
    """

    device: torch.device
    decoding: Decoding
    skipped: list[SampleError]
    decoded_again: int
    kept: KeptImages | None

    def __len__(self) -> int:
        """Batches in one epoch, the same on every rank."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch, from its first.

        That is the one after the epoch begun last, be it by ``epoch`` or by iterating,
        and whether or not it was taken to its end; 0 where none was begun. An epoch
        begins when its first batch is asked for.
        """

    def epoch(
        self, number: int, first_batch: int = 0, *, then: int | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``first_batch`` on.

        (seed, number) fixes the order. Starting an epoch ends the one before.

        Args:
            number: the epoch, counted from 0.
            first_batch: the first of its batches that is wanted.
            then: the epoch that is asked for next, from its first batch on: what
                ``prefetch`` allows of it is made while this one ends, and after that.

        Raises:
            SampleError: an image cannot be decoded, and ``on_corrupt`` is ``raise``;
                with ``skip`` its batch comes without it. The loader stays usable.
            ShardError: a shard can't be read, whatever ``on_corrupt`` is.
            OSError: nor can a file of a folder of images; it names the file.
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

    def read(self, row: int) -> Jpeg:
        """The JPEG bytes of a row."""

    def reading(self, rows: Int64, *, verify: bool = True) -> Reading:
        """How a batch is read: all that can be looked up for its rows at once.

        Args:
            rows: int64[B], rows of the source.
            verify: whether the bytes are compared with their checksum, where the
                source has one.
        """

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
        device: where the batches go: ``cpu``, ``cuda`` (this process's GPU), ``cuda:N``
            or ``mps``; ``auto`` is a GPU if torch sees one, else the processor.
        workers: threads that decode, or processes under ``pil``; ``None`` for one per
            granted core. 0 decodes in the caller's own thread under ``pil``, and is
            ``None`` elsewhere. ``webdataset`` streams with up to as many again.
        prefetch: batches made ahead of the one in use; under ``pil`` by each of its
            workers, and none without workers. ``dali`` has as many again read ahead,
            as JPEGs.
        on_corrupt: what an image that cannot be decoded does: ``raise`` a SampleError,
            or ``skip`` it, which leaves its batch shorter and is counted. (Under
            ``dali-reader`` its batch is the one that DALI fails on when it is found.)
        hw_decoder_load: share of the images that a GPU's JPEG engine decodes, under
            DALI; its CUDA cores and the host take the rest. ``None`` is 1 where the GPU
            has such an engine; elsewhere it is of no say.
        verify_reads: whether each image's bytes are compared with the checksum in the
            index before they are decoded; one that was damaged fails as one that can't
            be decoded does.
        cache: where decoded images are kept, so that later epochs decode nothing: on
            the ``device``, in ``memory``, or in a folder that processes and runs share.
            What finds no room is decoded in every epoch. ``None`` keeps nothing.
        cache_gb: most that is kept, GB (1e9 bytes): of each rank, or in the folder. By
            default a share of what is free.
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
    hw_decoder_load: float | None = None
    verify_reads: bool = True
    cache: str | Path | None = None
    cache_gb: float | None = None

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch size", "be at least 1", self.batch_size)
        for name in ("hflip", "vflip", "balance", "balance_decay", "hw_decoder_load"):
            value = getattr(self, name)
            ok = value is None or 0 <= value <= 1
            _require(ok, name.replace("_", " "), "lie in 0 to 1", value)
        for name, low in (("window", 1), ("image_size", 8), ("workers", 0)):
            value = getattr(self, name)
            ok = value is None or value >= low
            _require(ok, name.replace("_", " "), f"be at least {low}", value)
        _require(self.prefetch >= 1, "prefetch", "be at least 1", self.prefetch)
        _require(self.world_size >= 1, "world size", "be at least 1", self.world_size)
        check_device_name(self.device)
        ok = self.cache is None or bool(os.fspath(self.cache))
        _require(ok, "cache", "be device, memory or a folder", repr(self.cache))
        ok = self.cache_gb is None or self.cache_gb > 0
        _require(ok, "cache gb", "be above 0", self.cache_gb)
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
