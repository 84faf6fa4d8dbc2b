"""The data set that the doctor looks at, and a sample of its images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg

from loaders.errors import ShardError
from loaders.shards import ShardSplit, open_split

_USUAL = 512  # pixels, where sizes differ and none is asked for
_SAMPLE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSample:
    """A data set.

    Attributes:
        shards: its folder.
        rows: int64[n], the training images that fit into one batch.
        train: images of the training split.
        test: images of the test split.
        bytes: of all shards.
        image_size: that images are resized to while loading; None keeps their size.
        asked: whether that was asked for.
        shape: height and width that are delivered, pixels.
        sizes: distinct sizes of the training images.
    """

    shards: Path
    rows: npt.NDArray[np.int64]
    train: int
    test: int
    bytes: int
    image_size: int | None
    asked: bool
    shape: tuple[int, int]
    sizes: int

    @contextmanager
    def part(self, images: int | None = None) -> Iterator[ShardSplit]:
        """The first training images, or all of them."""
        with (
            open_split(self.shards, "train") as split,
            split.select(self.rows[:images]) as part,
        ):
            yield part

    def files(self, images: int) -> list[Path]:
        """The tars that the first training images lie in."""
        with self.part(images) as part:
            numbers = np.unique(part.shard_of(part.rows)).tolist()
            return [self.shards / part.shards[number].name for number in numbers]


def look_at(shards: Path, image_size: int | None) -> ImageSample:
    """Open a data set.

    Raises:
        ShardError: it can't be used.
    """
    with open_split(shards, "train") as train, open_split(shards, "test") as test:
        if not len(train):
            raise ShardError(f"{shards} has no train samples")
        sizes = train.dimensions
        asked = image_size is not None
        if image_size is None and len(sizes) > 1:
            image_size = _USUAL
        shape = sizes[0] if image_size is None else (image_size, image_size)
        return ImageSample(
            shards=shards,
            rows=train.rows,
            train=len(train),
            test=len(test),
            bytes=sum(shard.bytes for one in (train, test) for shard in one.shards),
            image_size=image_size,
            asked=asked,
            shape=shape,
            sizes=len(sizes),
        )


def sample(subject: ImageSample, seconds: float) -> list[bytes]:
    """JPEGs from all over the data set, as many as decode in that time.

    Raises:
        SampleError: one can't be decoded; training would fail on it, too.
    """
    wanted = min(_SAMPLE, len(subject.rows))
    spread = np.linspace(0, len(subject.rows) - 1, wanted).astype(int)
    shuffled = np.random.default_rng(0).permutation(subject.rows[spread])
    deadline = time.monotonic() + seconds
    jpegs: list[bytes] = []
    with subject.part() as part:
        for row in shuffled.tolist():
            jpeg = bytes(part.read(row))
            try:
                simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
            except ValueError as error:
                raise part.failure(row, str(error)) from error
            jpegs.append(jpeg)
            if time.monotonic() > deadline and len(jpegs) >= 16:
                break
    return jpegs
