"""The data set that the doctor examines, and a sample of its images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from loaders.arrays import Int64
from loaders.decode import describe_failure, read_with_pillow
from loaders.errors import ShardError
from loaders.jpeg_structure import is_plain
from loaders.shards import ShardSplit, open_split

_USUAL = 512  # pixels, where sizes differ and none is asked for
_MOST_JPEGS, _LEAST_JPEGS = 512, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ExaminedShards:
    """A data set, with what loading and training on it depend on.

    Attributes:
        folder: where the shards lie.
        rows: int64[n], the rows of the training images in the split's index.
        train: images of the training split.
        test: images of the test split.
        bytes: size of all shards.
        image_size: pixels square that images are resized to while loading; None keeps
            their size.
        asked: whether resizing was asked for.
        shape: height and width in which images are delivered, pixels.
        sizes: distinct sizes of the training images.
    """

    folder: Path
    rows: Int64
    train: int
    test: int
    bytes: int
    image_size: int | None
    asked: bool
    shape: tuple[int, int]
    sizes: int

    @contextmanager
    def part(self, images: int | None = None) -> Iterator[ShardSplit]:
        """Open the first training images, or all of them."""
        with (
            open_split(self.folder, "train") as split,
            split.select(self.rows[:images]) as part,
        ):
            yield part

    def files(self, images: int) -> list[Path]:
        """The tars that the first training images lie in."""
        with self.part(images) as part:
            numbers = np.unique(part.shard_of(part.rows)).tolist()
            return [self.folder / part.shards[number].name for number in numbers]


def open_examined(folder: Path, image_size: int | None) -> ExaminedShards:
    """Look at a data set, to be loaded at some size or as it is.

    Raises:
        ShardError: it can't be used.
    """
    with open_split(folder, "train") as train, open_split(folder, "test") as test:
        if not len(train):
            raise ShardError(f"{folder} has no train samples")
        sizes = train.dimensions
        asked = image_size is not None
        if image_size is None and len(sizes) > 1:
            image_size = _USUAL
        shape = sizes[0] if image_size is None else (image_size, image_size)
        return ExaminedShards(
            folder=folder,
            rows=train.rows,
            train=len(train),
            test=len(test),
            bytes=sum(shard.bytes for one in (train, test) for shard in one.shards),
            image_size=image_size,
            asked=asked,
            shape=shape,
            sizes=len(sizes),
        )


def sample_jpegs(shards: ExaminedShards, seconds: float) -> list[bytes]:
    """JPEGs from all over the data set, as many as decode in that time.

    Raises:
        SampleError: one can't be decoded; training would fail on it, too.
    """
    wanted = min(_MOST_JPEGS, len(shards.rows))
    spread = np.linspace(0, len(shards.rows) - 1, wanted).astype(int)
    shuffled = np.random.default_rng(0).permutation(shards.rows[spread])
    deadline = time.monotonic() + seconds
    jpegs: list[bytes] = []
    with shards.part() as part:
        for row in shuffled.tolist():
            jpeg = bytes(part.read(row))
            try:
                if is_plain(jpeg):
                    simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
                else:
                    read_with_pillow(jpeg)
            except ValueError as error:
                raise part.failure(row, describe_failure(error, jpeg)) from error
            jpegs.append(jpeg)
            if time.monotonic() > deadline and len(jpegs) >= _LEAST_JPEGS:
                break
    return jpegs
