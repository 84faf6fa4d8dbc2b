"""Other versions of a data set, made from its shards: another split, or CLAHE.

The images are unpacked, as the course's folder layout, and sharded again, so that a
variant is as verified as the original. It is made once, and kept.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastretina.data.patients import group_split
from fastretina.shard import command as shard
from loaders.shards import MANIFEST, SPLITS, ShardSplit, open_split

CLAHE = "clahe"
BY_PATIENT, BY_IMAGE = "by-patient", "by-image"
VARIANTS = {
    CLAHE: "CLAHE on the luminance of every image",
    BY_PATIENT: "split by patient",
    BY_IMAGE: "split by image, as the course's",
}


def make_variant(name: str, shards: str, folder: Path) -> Path:
    """The shards of a variant, made if they are not there yet.

    Args:
        name: one of ``VARIANTS``.
        shards: the data set as given.
        folder: where each variant has a folder of its own name.

    Raises:
        ShardError: the data set can't be read, or is on a web server.
        OSError: the disk is full.
    """
    target = folder / name
    if (target / MANIFEST).exists():
        return target
    print(f"making shards: {VARIANTS[name]}", file=sys.stderr)
    unpacked = folder / f".{name}"
    shutil.rmtree(unpacked, ignore_errors=True)  # left by a run that was killed
    try:
        with ExitStack() as opened:
            splits = [opened.enter_context(open_split(shards, s)) for s in SPLITS]
            _unpack(splits, name, unpacked)
        steps = "clahe" if name == CLAHE else ""
        options = shard.Options(data=unpacked, shards=target, preprocess=steps)
        with contextlib.redirect_stdout(io.StringIO()):  # the command prints
            shard.write(options)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def _unpack(splits: list[ShardSplit], name: str, folder: Path) -> None:
    """Write all images, and the course's four CSVs."""
    images = folder / "data"
    images.mkdir(parents=True)
    held = _in_test(splits, name)
    listed: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for (split, row), in_test in zip(_rows(splits), held, strict=True):
        key = split.key(row)
        (images / f"{key}.jpeg").write_bytes(split.read(row))
        listed["test" if in_test else "train"].append((key, int(split.labels[row])))
    for split_name, rows in listed.items():
        for column, number in (("img", 0), ("label", 1)):
            lines = "".join(f"{row[number]}\n" for row in rows)
            (folder / f"{split_name}_{column}.csv").write_text(lines)


def _rows(splits: list[ShardSplit]) -> Iterator[tuple[ShardSplit, int]]:
    for split in splits:
        for row in range(len(split.labels)):
            yield split, row


def _in_test(splits: list[ShardSplit], name: str) -> npt.NDArray[np.bool_]:
    """Whether each row of all splits is to be in test: bool[N].

    Where the variant is another split, as many rows are as before.
    """
    given = np.concatenate([np.full(len(s.labels), s.name == "test") for s in splits])
    if name not in (BY_PATIENT, BY_IMAGE):
        return given
    column = "patient" if name == BY_PATIENT else "key"
    groups = [value for split in splits for value in split.column(column)]
    grades = np.concatenate([split.labels for split in splits]).tolist()
    return group_split(groups, grades, float(given.mean()), seed=0)
