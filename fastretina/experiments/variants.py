"""Other versions of a data set, made from its shards: another split, or CLAHE.

The images are unpacked, as the course's folder layout, and sharded again, so that a
variant is as verified as the original. It is made once, and kept. Beside each lies a
file that says what it was made from: ``clahe`` and ``clahe.json``.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

import numpy as np

from fastretina.data.patients import group_split
from fastretina.run import as_record
from fastretina.shard import command as shard
from fastretina.shard.plan import PROGRESS
from loaders.arrays import Bool
from loaders.errors import RunError
from loaders.files import (
    make_inner_folder,
    refuse_link,
    sync_folder,
    write_atomically,
)
from loaders.place import place
from loaders.shards import MANIFEST, SPLITS, ShardSplit, open_split, read_manifest
from loaders.untrusted import read_json

CLAHE = "clahe"
BY_PATIENT, BY_IMAGE = "by-patient", "by-image"
VARIANTS = {
    CLAHE: "CLAHE on the luminance of every image",
    BY_PATIENT: "split by patient",
    BY_IMAGE: "split by image, as the course's",
}


class _Record(TypedDict):
    """What lies beside a variant: the fingerprint of what it was made from."""

    fingerprint: str | None


def make_variant(name: str, shards: str, folder: Path) -> Path:
    """The shards of a variant, made if they are not there yet.

    Args:
        name: one of ``VARIANTS``.
        shards: the data set as given.
        folder: where each variant has a folder of its own name.

    Raises:
        ShardError: the data set can't be read, or is on a web server.
        RunError: the variant was made from other data than there is now.
        OSError: the disk is full.
    """
    target, unpacked = folder / name, folder / f".{name}"
    fingerprint = read_manifest(place(shards)).fingerprint
    for each in (folder, target, unpacked):
        refuse_link(each)
    shutil.rmtree(unpacked, ignore_errors=True)  # left where power or process was lost
    if (target / MANIFEST).exists():
        if _made_from(target) not in (None, fingerprint):
            raise RunError(
                f"{target} was made from other data than {shards} has now: choose "
                "another --out"
            )
        shutil.rmtree(target / PROGRESS, ignore_errors=True)  # that of finished shards
        return target
    make_inner_folder(folder)
    record = json.dumps({"fingerprint": fingerprint}) + "\n"
    write_atomically(_record_of(target), record)  # before it is one
    print(f"making shards: {VARIANTS[name]}", file=sys.stderr)
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
    sync_folder(folder)  # once all runs are finished, nobody would remove it
    return target


def _record_of(variant: Path) -> Path:
    return variant.with_name(f"{variant.name}.json")


def _made_from(variant: Path) -> str | None:
    """The fingerprint of what it was made from; None where an older version made it.

    Raises:
        RunError: its record is damaged.
    """
    path = _record_of(variant)
    try:
        saved = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}): choose another --out") from error
    return as_record(saved, _Record, path)["fingerprint"]


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


def _in_test(splits: list[ShardSplit], name: str) -> Bool:
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
