"""Tars of graded photographs that have no index: what they list, and their images.

Each image is unpacked to a file of its own, so that all that follows is as for any
other folder of photographs.

Splits. Where the names of all tars begin with train, test or val, or they lie in
folders named so, that split is kept; val counts as train, as in ``layouts``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from tqdm import tqdm

from fastretina.data.keys import assign_keys
from fastretina.data.left_out import (
    IN_TARS,
    LeftOutFiles,
    files_below,
    first_names,
    suffix_of,
)
from fastretina.data.listing import Listing
from fastretina.data.patient_names import PatientEye, PatientSource
from fastretina.data.tar_samples import TarSample, read_samples
from fastretina.progress import hidden
from loaders.course import IMAGE_SUFFIXES, Listed
from loaders.errors import LabelError
from loaders.files import naming

_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val"), "val"
)
_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})(?![a-z])", re.IGNORECASE)


def find_tars(root: Path, passed_over: Collection[Path] = ()) -> list[Path]:
    """The tars below a folder, sorted; none where there is a photograph, too.

    Args:
        root: the folder.
        passed_over: folders not to look into.
    """
    known = {os.path.abspath(path) for path in passed_over}
    tars = []
    for path in files_below(os.path.abspath(root), known):
        suffix = suffix_of(path)
        if suffix in IMAGE_SUFFIXES:
            return []
        if suffix == ".tar":
            tars.append(root / os.path.relpath(path, root))
    return sorted(tars)


def read_tars(
    root: Path, tars: Sequence[Path], folder: Path, patients: PatientSource
) -> Listing:
    """Read all tars, and unpack their images.

    Args:
        root: the folder that was named.
        tars: those in it.
        folder: an empty one to unpack to; no name in a tar leads out of it.
        patients: where the patients are told.

    Raises:
        LabelError: a tar is damaged, what it says is no grade, or none holds a
            graded photograph.
        OSError: a file can't be read or written.
    """
    reader = _TarReader(root, folder, patients)
    for tar in tqdm(tars, unit=" tars", desc="unpacking", disable=hidden()):
        reader.read(tar)
    reader.samples.sort(key=lambda sample: sample[0].name)
    rows = [row for row, _, _ in reader.samples]
    if not rows:
        why = "; ".join(each.describe(root) for each in reader.left_out())
        raise LabelError(
            f"{root} holds no graded photograph in its tars, as KEY.jpg right beside "
            f"its KEY.cls or KEY.json is one: {why}"
        )
    splits, warnings = _read_splits(root, tars, [tar for *_, tar in reader.samples])
    return Listing(
        rows,
        splits,
        reader.paths,
        eyes=[eye for _, eye, _ in reader.samples],
        warnings=warnings,
        read=(*tars, *(tar.with_suffix(".idx") for tar in tars)),
        left_out=reader.left_out(),
    )


class _TarReader:
    """Reads one tar after the other, and collects what is in them."""

    def __init__(self, root: Path, folder: Path, patients: PatientSource) -> None:
        self._root = root
        self._folder = folder
        self._patients = patients
        self._left_out: dict[str, list[str]] = {reason: [] for reason in IN_TARS}
        self._numbers: Counter[tuple[str, str]] = Counter()  # taken, by stem and suffix
        self.samples: list[tuple[Listed, PatientEye, Path]] = []
        self.paths: dict[str, Path] = {}

    def read(self, tar: Path) -> None:
        """Read one more."""
        before = len(self.samples)
        for sample in read_samples(tar):
            if reason := self._take(sample):
                name = f"{tar.relative_to(self._root)}: {sample.name}"
                self._left_out[reason].append(name)
        if len(self.samples) == before:
            self._left_out["without a graded photograph"].append(
                str(tar.relative_to(self._root))
            )

    def _take(self, sample: TarSample) -> str:
        """Take a sample, unless something is missing; returns what is."""
        images = sample.images
        if len(images) != 1:
            return "with more than one image" if images else "without an image"
        grade = sample.grade()
        if grade is None:
            return "without a grade"
        row = Listed(sample.name, grade, sample.place)
        self.samples.append((row, sample.eye(self._patients), sample.tar))
        ((suffix, content),) = images.items()
        self.paths[sample.name] = self._unpack(sample.name, suffix, content)
        return ""

    def _unpack(self, name: str, suffix: str, content: bytes) -> Path:
        stem = assign_keys([name])[name]  # which holds neither dots nor slashes
        path = self._place(stem, suffix)
        while path.exists():  # where A and a are one name
            path = self._place(stem, suffix)
        with naming(path), path.open("xb") as file:
            file.write(content)
        return path

    def _place(self, stem: str, suffix: str) -> Path:
        """Another one for each name that differs in what a key can't hold."""
        number = self._numbers[stem, suffix]
        self._numbers[stem, suffix] += 1
        return self._folder / f"{stem}.{f'{number}.' if number else ''}{suffix}"

    def left_out(self) -> tuple[LeftOutFiles, ...]:
        """What is not taken, by reason."""
        found = self._left_out.items()
        return tuple(LeftOutFiles(why, tuple(names)) for why, names in found if names)


def _read_splits(
    root: Path, tars: Sequence[Path], of_rows: Sequence[Path]
) -> tuple[list[str] | None, tuple[str, ...]]:
    """Each row's split by the name of its tar, if that can be kept, and warnings."""
    named = {tar: _split_of(tar.relative_to(root)) for tar in tars}
    without = [str(tar.relative_to(root)) for tar in tars if not named[tar]]
    if without:
        if "test" not in named.values():
            return None, ()
        return None, (
            "the split that some tars' names tell is not kept, as others tell none: "
            f"{first_names(without)}",
        )
    counts = Counter(named[tar] for tar in of_rows)
    warnings = []
    if counts["val"]:
        warnings.append(f"the val split counts as train, images: {counts['val']:,}")
    if "test" not in named.values():
        return None, tuple(warnings)
    splits = ["test" if named[tar] == "test" else "train" for tar in of_rows]
    return splits, tuple(warnings)


def _split_of(path: Path) -> str:
    """``train``, ``test`` or ``val`` by the file's name or a folder's; or empty."""
    if match := _SPLIT.match(path.name):
        return _SPLITS[match[1].lower()]
    folders = (_SPLITS.get(part.lower(), "") for part in path.parts[:-1])
    return next(filter(None, folders), "")
