"""The images that all entrants load: the same JPEG bytes, as files and as shards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.course_folder import (
    LabelledJpeg,
    rows_of_usual_size,
    write_course_folder,
)
from fastretina.shard import command as shard
from loaders import ShardSplit, open_split
from loaders.shards import MANIFEST

_VERSION = 1  # of the layout below


@dataclass(frozen=True)
class BenchData:
    """A folder with everything that is timed.

    ``photographs/data/NUMBER_left.jpeg`` with the course's CSVs beside it, ``shards/``
    of these, and a folder for each peer's own format. The number is what the images are
    told apart by under every entrant.
    """

    folder: Path

    @property
    def photographs(self) -> Path:
        """Folder of the images as files, in the course's layout."""
        return self.folder / "photographs"

    @property
    def shards(self) -> Path:
        """Folder of shards of the same images."""
        return self.folder / "shards"

    @property
    def logs(self) -> Path:
        """Folder for what the entrants' libraries print."""
        return self.folder / "logs"

    def train(self) -> ShardSplit:
        """The split that is timed."""
        return open_split(self.shards, "train")

    @cached_property
    def files(self) -> list[Path]:
        """The images' files, in the order of the CSV."""
        names = (self.photographs / "train_img.csv").read_text().split()
        return [self.photographs / "data" / f"{name}.jpeg" for name in names]

    @cached_property
    def grades(self) -> list[int]:
        """The grade of each file, 0 to 4."""
        lines = (self.photographs / "train_label.csv").read_text().split()
        return [int(line) for line in lines]

    def all_files(self) -> list[Path]:
        """All files, to drop them from the page cache."""
        return [
            path
            for path in self.folder.rglob("*")
            if path.is_file() and path.parent != self.logs
        ]


NO_DATA = BenchData(Path("nowhere"))  # for entrants whose names alone are wanted


def number_of(name: str) -> int:
    """What tells an image apart, from its name, key or file."""
    return int(Path(name).name.partition("_")[0])


class NumbersOfRows:
    """What tells images apart, from their rows; looked up when first asked for.

    Not when an entrant is opened, whose first batch would wait for it.
    """

    def __init__(self, data: BenchData) -> None:
        self._data = data

    def __call__(self, rows: Iterable[int]) -> list[int]:
        """The numbers of these rows of the split that is timed."""
        return [self._numbers[row] for row in rows]

    @cached_property
    def _numbers(self) -> list[int]:
        with self._data.train() as split:
            return [number_of(key) for key in split.column("key")]


def prepare(shards: Path, images: int | None, cache: Path) -> BenchData:
    """Lay out images of a shard folder's training split; once, then it is kept.

    Args:
        shards: to take them from.
        images: how many, evenly over the split; ``None`` for all.
        cache: folder to keep them in.
    """
    about = {
        "version": _VERSION,
        "manifest": hashlib.sha256((shards / MANIFEST).read_bytes()).hexdigest(),
        "images": images,
    }
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    data = BenchData(cache / f"{images or 'all'}-{name}")
    if data.folder.exists():
        return data
    making = BenchData(cache / f".{data.folder.name}-{os.getpid()}")
    try:
        _lay_out(shards, images, making.photographs)
        with redirect_stdout(sys.stderr):
            shard.write(shard.Options(data=making.photographs, shards=making.shards))
        making.folder.rename(data.folder)
    except BaseException:
        shutil.rmtree(making.folder, ignore_errors=True)
        raise
    return data


def _lay_out(shards: Path, images: int | None, folder: Path) -> None:
    with open_split(shards, "train") as split:
        rows, held_out = _rows_to_time(split, images)
        splits = {"train": _images(split, rows), "test": _images(split, held_out)}
        write_course_folder(folder, splits)


def _images(split: ShardSplit, rows: list[int]) -> Iterator[LabelledJpeg]:
    for row in rows:
        jpeg = bytes(split.read(row))
        yield LabelledJpeg(f"{row}_left", jpeg, int(split.labels[row]))


def _rows_to_time(split: ShardSplit, images: int | None) -> tuple[list[int], list[int]]:
    """Rows to time, and two more, as the layout wants a test split."""
    rows = rows_of_usual_size(split)
    timed = len(rows) - 2 if images is None else min(images, len(rows) - 2)
    assert timed > 0, "a data set of three images of one size is the least"
    places = np.linspace(0, len(rows) - 1, timed + 2).astype(int)
    chosen = rows[places].tolist()
    return chosen[:-2], chosen[-2:]
