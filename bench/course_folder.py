"""Folders in the course's layout, made of images that lie in shards."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loaders import ShardSplit
from loaders.arrays import Int64


class LabelledJpeg(NamedTuple):
    """An image of a course folder.

    Attributes:
        name: the file's name, without extension.
        jpeg: the file's bytes.
        grade: the image's grade, 0 to 4.
    """

    name: str
    jpeg: bytes
    grade: int


def rows_of_usual_size(split: ShardSplit) -> Int64:
    """The rows, int64[n], of images of the size that most of a split's have."""
    sizes = list(zip(split.column("width"), split.column("height"), strict=True))
    usual = max(dict.fromkeys(sizes), key=sizes.count)
    rows = [row for row in split.rows.tolist() if sizes[row] == usual]
    return np.array(rows, np.int64)


def write_course_folder(
    folder: Path, splits: Mapping[str, Iterable[LabelledJpeg]]
) -> None:
    """Write images and the four CSVs of ``train`` and ``test``, over what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    for split, images in splits.items():
        names, grades = [], []
        for name, jpeg, grade in images:
            (folder / "data" / f"{name}.jpeg").write_bytes(jpeg)
            names.append(f"{name}\n")
            grades.append(f"{grade}\n")
        (folder / f"{split}_img.csv").write_text("".join(names))
        (folder / f"{split}_label.csv").write_text("".join(grades))
