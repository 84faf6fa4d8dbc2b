"""A folder of photographs as it is: the course report's Dataset, and a source of it.

    dataset = RetinopathyDataset("data", "train")
    loader = make_loader("pil", FolderSource(dataset), "train", config)

``RetinopathyDataset`` is the course report's, made right about header lines. Importing
this module imports torch, as the Dataset is one of torch's.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from loaders.arrays import Int64
from loaders.base import Reading
from loaders.course import (
    COURSE_FILES,
    find_course_csvs,
    index_images,
    parent_of,
    read_course_split,
)
from loaders.decode import IMAGE_KINDS, describe_failure, describe_unreadable
from loaders.errors import LabelError, SampleError
from loaders.files import naming
from loaders.jpeg_structure import MOST_PHOTOGRAPH
from loaders.shards import SplitName
from loaders.untrusted import read_file

_REPLACE = (
    "replace that file, or take it out of the CSV files; shards of this folder leave "
    "out what can't be decoded"
)


class RetinopathyDataset(Dataset[tuple[Any, int]]):
    """The report's Dataset: PIL image and grade, one file at a time.

    Attributes:
        img_name: image names as the CSV lists them, without extension.
        label: their grades, 0 to 4.
        paths: their files.
    """

    def __init__(
        self,
        root: str | Path,
        mode: SplitName,
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        """Read the course's CSV files, which lie in ``root`` or beside it.

        Args:
            root: the folder with the images.
            mode: ``train`` or ``test``.
            transform: applied to the RGB image; ``None`` returns the image itself.

        Raises:
            LabelError: the lists are missing, malformed, or name a missing image.
        """
        self.root = Path(root)
        folder = find_course_csvs(self.root)
        if folder is None:
            raise LabelError(_missing_csvs(self.root))
        self.img_name, self.label = read_course_split(folder, mode)
        self.mode = mode
        self.transform = transform
        files = index_images(self.root)
        missing = [name for name in self.img_name if name not in files]
        if missing:
            raise LabelError(
                f"{len(missing):,} of {len(self.img_name):,} images listed in "
                f"{folder / f'{mode}_img.csv'} are missing from {root}: "
                + ", ".join(missing[:3])
            )
        self.paths = [files[name] for name in self.img_name]

    def __len__(self) -> int:
        return len(self.img_name)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """An image and its grade.

        Raises:
            SampleError: it can't be decoded.
            OSError: its file can't be read.
        """
        content = _read(self.paths[index])
        try:
            with Image.open(io.BytesIO(content), formats=IMAGE_KINDS) as opened:
                image = opened.convert("RGB")
        except MemoryError:
            raise
        except Exception as error:  # of many kinds, with no common base
            reason = describe_unreadable(error, content)
            path, name = str(self.paths[index]), self.img_name[index]
            raise SampleError(path, name, reason, _REPLACE) from None
        return (self.transform(image) if self.transform else image), self.label[index]


def _missing_csvs(root: Path) -> str:
    """Which of the course's CSV files are missing, and where."""
    for folder in (root, parent_of(root)):
        lacks = [name for name in COURSE_FILES if not (folder / name).is_file()]
        if len(lacks) < len(COURSE_FILES):
            return f"{folder} must hold all of the course's CSVs, lacks " + ", ".join(
                lacks
            )
    return f"none of {', '.join(COURSE_FILES)} is in {root} or beside it"


def _read(path: Path) -> bytes:
    return read_file(path, MOST_PHOTOGRAPH)


class FolderSource:
    """A ``RetinopathyDataset`` as a loader's source: one shard, in the CSV's order."""

    def __init__(self, dataset: RetinopathyDataset) -> None:
        self._dataset = dataset
        self.labels = np.asarray(dataset.label, np.int64)
        self.rows = np.arange(len(dataset))

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """The number of images in the folder, which counts as one shard."""
        return (len(self.rows),)

    @cached_property
    def dimensions(self) -> tuple[tuple[int, int], ...]:
        """The distinct (height, width): opens every file once, 0.1 ms each.

        Raises:
            SampleError: one is no image.
            OSError: one can't be read.
        """
        return tuple(sorted({self._size_of(row) for row in self.rows.tolist()}))

    def _size_of(self, row: int) -> tuple[int, int]:
        path = self._dataset.paths[row]
        with naming(path), path.open("rb") as file:
            try:
                with Image.open(file, formats=IMAGE_KINDS) as image:
                    return image.height, image.width
            except Exception as error:  # of many kinds, with no common base
                if getattr(error, "errno", None) is not None:  # of reading
                    raise
                reason = describe_failure(error, self.read(row))
                raise self.failure(row, reason) from error

    def read(self, row: int) -> bytes:
        """The bytes of a row's file; an ``OSError`` names it."""
        return _read(self._dataset.paths[row])

    def reading(self, rows: Int64, *, verify: bool = True) -> Reading:
        """How a batch is read; files have no checksum to compare with."""
        paths = [self._dataset.paths[row] for row in rows.tolist()]
        return Reading(lambda place: _read(paths[place]))

    def key(self, row: int) -> str:
        """The image's name."""
        return self._dataset.img_name[row]

    def failure(self, row: int, reason: str) -> SampleError:
        """The error that names the file of a row."""
        path = str(self._dataset.paths[row])
        return SampleError(path, self.key(row), reason, _REPLACE)

    def close(self) -> None:
        """Do nothing, as no file is held open."""
