"""Photographs for ``scripts/gpu_check.py``, drawn where none are given."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench.course_folder import (
    LabelledJpeg,
    rows_of_usual_size,
    write_course_folder,
)
from bench.gpu.scope import Sizes
from fastretina.demo import command as demo
from fastretina.shard import command as shard
from loaders.shards import MANIFEST, ShardSplit, open_split

# Patient numbers of the odd kinds, whose keys are NUMBER_left.
ODD_KINDS = {
    1: "4:4:4",
    2: "4:2:2",
    3: "progressive",
    4: "grayscale",
    5: "CMYK",
}

_PER_SHARD = 128  # so that there are shards enough for all cores to write


class Kept(NamedTuple):
    """Makes shards, or keeps those that are there.

    Attributes:
        keep: whether to keep what is there.
    """

    keep: bool

    def __call__(self, shards: Path, make: Callable[[], Path]) -> Path:
        """Shards in that folder: as they are, where they are whole."""
        # The manifest is written last: without it there is no data set.
        return shards if self.keep and (shards / MANIFEST).exists() else make()


def shard_photographs(data: Path | None, out: Path, sizes: Sizes) -> Path:
    """Shards of a folder of photographs, or of demo photographs; returns their folder.

    Raises:
        DataError: the folder can't be used.
    """
    if data is None:
        data = out / "photographs"
        wanted = demo.Options(
            out=data, images=sizes.photographs, image_size=sizes.pixels
        )
        with redirect_stdout(sys.stderr):
            demo.make_demo(wanted)
    return _shard(data, out / "shards")


def long_epoch(shards: Path, folder: Path, images: int, held_out: int) -> Path:
    """Shards of as many images as wanted, the same ones over and over.

    An epoch of some seconds, as the filling of queues at its start would outweigh all
    else in a short one.
    """
    with usual_size(shards) as split:
        splits = {
            "train": _over_and_over(split, images, 1),
            "test": _over_and_over(split, held_out, images + 1),
        }
        data = folder / "photographs"
        write_course_folder(data, splits)
    made = _shard(data, folder / "shards")
    shutil.rmtree(data)
    return made


def usual_size(shards: Path, images: int | None = None) -> ShardSplit:
    """The first training images, or all, of the size that most of them have."""
    with open_split(shards, "train") as split:
        return split.select(rows_of_usual_size(split)[:images])


def odd_jpegs(shards: Path, folder: Path) -> Path:
    """Shards of one photograph, encoded anew as each of ``ODD_KINDS``."""
    with usual_size(shards, 1) as split:
        jpeg = bytes(split.read(int(split.rows[0])))
    picture = Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB")
    odd = [
        LabelledJpeg(f"{number}_left", encoded(picture, kind), 0)
        for number, kind in ODD_KINDS.items()
    ]
    whole = [LabelledJpeg("99_left", jpeg, 0)]
    data = folder / "photographs"
    write_course_folder(data, {"train": odd, "test": whole})
    return _shard(data, folder / "shards")


def encoded(picture: Image.Image, kind: str) -> bytes:
    """A picture as a JPEG of one of ``ODD_KINDS``."""
    jpeg = io.BytesIO()
    if kind in ("grayscale", "CMYK"):
        picture = picture.convert("L" if kind == "grayscale" else "CMYK")
    picture.save(
        jpeg,
        "JPEG",
        quality=90,
        progressive=kind == "progressive",
        **{"4:4:4": {"subsampling": 0}, "4:2:2": {"subsampling": 1}}.get(kind, {}),
    )
    return jpeg.getvalue()


def _over_and_over(
    split: ShardSplit, images: int, first: int
) -> Iterator[LabelledJpeg]:
    for number, row in enumerate(np.resize(split.rows, images).tolist(), first):
        grade = int(split.labels[row])
        yield LabelledJpeg(f"{number}_left", bytes(split.read(row)), grade)


def _shard(data: Path, folder: Path) -> Path:
    with redirect_stdout(sys.stderr):
        shard.write(
            shard.Options(
                data=data, shards=folder, samples_per_shard=_PER_SHARD, overwrite=True
            )
        )
    return folder
