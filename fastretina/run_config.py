"""``config.json`` of a run: all that it was made with, as one record.

What an older version did not record has a default, or is None.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from fastretina.ranges import MOST_SIDE, Count, RankCount
from fastretina.recipe import Precision, Recipe
from loaders.base import Decoding
from loaders.place import is_url
from loaders.shards import Origin, Preprocessing

_MOST_PIXELS = 200_000_000  # of an image; 0.6 GB
_MOST_THREADS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """The data set that a run is made from; two that differ in it are two data sets.

    Attributes:
        fingerprint: fingerprint of the shards.
        preprocessing: what was done to the photographs; None where it is unknown.
        train: number of photographs to train on.
        validation: number of photographs held out to choose the epoch.
        test: number of photographs to test on.
        test_fingerprint: fingerprint of the test shards, where they are others.
        origin: where the photographs come from; of no say in which data set it is.
        test_origin: the same of the test shards, where they are others.
    """

    fingerprint: str | None = None
    preprocessing: Preprocessing | None = None
    train: Count | None = None
    validation: Count = 0
    test: Count | None = None
    test_fingerprint: str | None = None
    origin: Origin = field(default=Origin(), compare=False)
    test_origin: Origin | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedLoading:
    """How batches were made, as far as it decides what is trained on.

    Attributes:
        loader: one of ``loaders.LOADERS``.
        on_corrupt: what an image that can't be decoded did.
        hw_decoder_load: share of the images that a GPU's JPEG engine decoded, under
            DALI; None where the default was taken, which ``Decoding`` names.
        verify_reads: whether images' bytes were compared with their checksum; None in
            a run of an older version, where they had none.
        cache: where decoded images were kept: ``device``, ``memory``, a folder, or
            ``none``; None where nothing was said, which is none.
        cache_gb: most that was kept, GB; None where the default was taken.
    """

    loader: str
    on_corrupt: Literal["raise", "skip"] | None = None
    hw_decoder_load: float | None = None
    verify_reads: bool | None = None
    cache: str | None = None
    cache_gb: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no flag can have been."""
        if self.hw_decoder_load is not None and not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"hw_decoder_load can't be {self.hw_decoder_load}")
        if self.cache == "":
            raise ValueError("cache can't be empty")
        if self.cache_gb is not None and not self.cache_gb > 0:
            raise ValueError(f"cache_gb can't be {self.cache_gb}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What a run is made with, and on: the content of ``config.json``.

    Attributes:
        recipe: decides the weights, with the data.
        python: version of Python.
        versions: version of each package that plays a part in the result.
        weights: what training started from: ``imagenet``, ``none`` or a file.
        shards: URL of the data set, or the absolute path of its folder; relative to
            where it was begun in a run of an older version.
        test_shards: the same of the data set to test on, where it is another.
        data: what these held.
        train_counts: training samples of each grade.
        image_shape: height and width of what the network sees, pixels.
        square: whether all training images were square before they were resized.
        ranks: number of processes that trained together.
        device: where it was trained, e.g. ``cpu``.
        loader: name of the loader.
        loading: how that loaded.
        decoding: who made the pixels.
        precision: what the forward pass was computed in.
        threads: threads that computed on the CPU.
        compile: whether the forward pass went through ``torch.compile``.
        cache_features: whether phase head kept the frozen backbone's features.
        decoding_before: who made the pixels before a resume changed that, in order.
    """

    recipe: Recipe
    python: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: str
    shards: str
    test_shards: str | None = None
    data: RunData
    train_counts: list[Count] | None = None
    image_shape: tuple[int, int]
    square: bool
    ranks: RankCount = 1
    device: str = "unknown"
    loader: str
    loading: RecordedLoading | None = None
    decoding: Decoding | None = None
    precision: Precision
    threads: int
    compile: bool = False
    cache_features: bool = False
    decoding_before: tuple[Decoding, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no run is made with, and no machine could do."""
        height, width = self.image_shape
        fits = min(height, width) >= 1 and max(height, width) <= MOST_SIDE
        if not fits or height * width > _MOST_PIXELS:
            raise ValueError(f"image_shape can't be {height} x {width}")
        if not 1 <= self.threads <= _MOST_THREADS:
            raise ValueError(f"threads can't be {self.threads}")
        done = self.data.preprocessing
        if done is not None and done.size is not None and not 8 <= done.size <= 8192:
            raise ValueError(f"preprocessing can't have size {done.size}")

    def shards_of(self, split: str) -> str:
        """Folder or URL of the data set that the run takes a split from."""
        return (split == "test" and self.test_shards) or self.shards

    def changes_to(self, now: RunConfig) -> list[str]:
        """What a run that goes on, or is evaluated, does otherwise than it did."""
        changes: list[tuple[str, object, object]] = [
            ("loader", self.loader, now.loader),
            ("precision", self.precision, now.precision),
            ("threads", self.threads, now.threads),
            ("device", self.device, now.device),
            ("compile", self.compile, now.compile),
            ("cache-features", self.cache_features, now.cache_features),
            ("ranks", self.ranks, now.ranks),
        ]
        changes += [
            (name, before, after)
            for name, before, after in (
                ("shards", self.shards, now.shards),
                ("test shards", self.test_shards, now.test_shards),
            )
            if _real_place(before) != _real_place(after)
        ]
        if self.loading is not None and now.loading is not None:
            before, after = self.loading.on_corrupt, now.loading.on_corrupt
            changes.insert(1, ("on-corrupt", before, after))
            kept = (self.loading.cache or "none", now.loading.cache or "none")
            changes.insert(2, ("cache", *kept))
        return [
            f"{name} was {before} before and is {after} now"
            for name, before, after in changes
            if before != after
        ]

    def as_json(self) -> dict[str, object]:
        """The content of ``config.json``, without the rare keys that say nothing."""
        content = asdict(self)
        if not self.decoding_before:
            del content["decoding_before"]
        if self.data.test_fingerprint is None:
            del content["data"]["test_fingerprint"]
            del content["data"]["test_origin"]
        return content


def _real_place(shards: str | None) -> str | None:
    """The same for all names of a folder."""
    return shards if shards is None or is_url(shards) else os.path.realpath(shards)
