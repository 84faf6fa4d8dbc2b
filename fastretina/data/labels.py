"""The labels of a data set and its image files, read into one sample table.

    ROOT --layouts--> rows, grades --split--> train, test
                           |                      |
      keys.assign_keys <---+---> image files --> SampleTable

Images of a CSV layout. ROOT if it holds a listed image, else those of its child folders
that do, else those of its grandchildren. Several may share the listed images out (one
folder per grade, say), but none may be in two. Folders without a listed image, such as
Kaggle's unlabelled test/, are left alone.

Splits. What has no test split gets one by patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastretina.data.keys import assign_keys
from fastretina.data.layout_names import LAYOUTS, TEST_SHARE
from fastretina.data.layouts import (
    describe_unlisted,
    find_layout,
    first_names,
    read_listing,
)
from fastretina.data.patients import group_split, patient_and_eye
from loaders.course import Listed, find_images, refuse_duplicates
from loaders.errors import LabelError
from loaders.grades import GRADES
from loaders.shards import SPLITS


class HoldOut(NamedTuple):
    """Which patients to test on, where the labels have no test split.

    Attributes:
        share: share of the patients, above 0 and below 1.
        seed: another seed holds out other patients.
    """

    share: float = TEST_SHARE
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph and what is known of it.

    Attributes:
        key: the sample's name in shards, unique in the table: 1 to 90 characters of
            ``[A-Za-z0-9_-]``.
        path: the image file; where it is expected if the table was read without images.
        grade: 0-4.
        split: ``train`` or ``test``.
        patient: the name without ``_left`` / ``_right``.
        eye: ``left``, ``right``, or empty where the name doesn't say.
        name: the image's name in its source, without an image suffix.
    """

    key: str
    path: Path
    grade: int
    split: str
    patient: str
    eye: str
    name: str


@dataclass(frozen=True, slots=True)
class SampleTable:
    """All samples of a data set: train before test, each in the order of its source.

    Attributes:
        samples: in file order for CSVs, sorted by name for folders.
        layout: one of ``layout_names.LAYOUTS``.
        warnings: what was noticed and did not stop the reading, one line each.
        missing: listed names without an image, left out of ``samples``.
        own_split: whether the labels say what is test; else patients were held out.
    """

    samples: tuple[Sample, ...]
    layout: str
    warnings: tuple[str, ...]
    missing: tuple[str, ...]
    own_split: bool

    def counts(self) -> dict[str, dict[int, int]]:
        """Split to grade to number of samples; splits and grades are all there."""
        seen = Counter((sample.split, sample.grade) for sample in self.samples)
        return {
            split: {grade: seen[split, grade] for grade in range(len(GRADES))}
            for split in SPLITS
        }


def read_table(
    root: Path,
    *,
    layout: str | None = None,
    labels: Path | None = None,
    images: bool = True,
    allow_missing: bool = False,
    hold_out: HoldOut = HoldOut(),  # noqa: B008 (it is immutable)
) -> SampleTable:
    """Read a folder of graded photographs, in any layout of ``layouts``.

    35,126 rows with their images take about a second: folders are listed, and no
    image is opened.

    Args:
        root: the data set's folder, or its image folder.
        layout: one of ``layout_names.LAYOUTS``; None recognises it.
        labels: the CSV to read, for the layouts kaggle and aptos; None looks for it.
        images: False takes the label files at their word (``path`` is then only where
            an image is expected). Grade folders are listed all the same.
        allow_missing: leave listed images that are missing out, with a warning.
        hold_out: the patients to test on, where the labels have no test split.

    Raises:
        LabelError: there is no such layout, or what it says is contradictory or
            incomplete; the message names file, line and value where there are any.
        ValueError: ``layout`` is unknown or the share to hold out outside (0, 1).
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise LabelError(f"{root} {what}; name the folder that holds the data set")
    layout, source = find_layout(root, layout, labels)
    listing = read_listing(layout, source)
    rows, warnings = listing.rows, [*listing.warnings]
    if not rows:
        raise LabelError(f"{source} lists no image; a data set needs one at least")
    refuse_duplicates(rows)
    splits = listing.splits or _split_by_patient(rows, hold_out)
    paths = listing.paths
    missing: tuple[str, ...] = ()
    if paths is None and images:
        paths, missing, notes = _match_images(root, rows, allow_missing)
        warnings += notes
    elif paths is None:
        suffix = ".png" if layout == "aptos" else ".jpeg"
        paths = {row.name: root / f"{row.name}{suffix}" for row in rows}
    samples = _samples(rows, splits, paths)
    for split in SPLITS:
        if all(sample.split != split for sample in samples):
            warnings.append(f"the {split} split is empty")
    own_split = listing.splits is not None
    return SampleTable(samples, layout, tuple(warnings), missing, own_split)


def _samples(
    rows: Sequence[Listed], splits: Sequence[str], paths: dict[str, Path]
) -> tuple[Sample, ...]:
    keys = assign_keys(row.name for row in rows)
    return tuple(
        Sample(keys[name], paths[name], grade, split, *patient_and_eye(name), name)
        for wanted in SPLITS
        for (name, grade, _), split in zip(rows, splits, strict=True)
        if split == wanted and name in paths
    )


def _split_by_patient(rows: Sequence[Listed], hold_out: HoldOut) -> list[str]:
    patients = [patient_and_eye(row.name)[0] for row in rows]
    grades = [row.grade for row in rows]
    held_out = group_split(patients, grades, hold_out.share, hold_out.seed)
    return ["test" if out else "train" for out in held_out.tolist()]


def _match_images(
    root: Path, rows: Sequence[Listed], allow_missing: bool
) -> tuple[dict[str, Path], tuple[str, ...], list[str]]:
    """Find the images: name to path, the names without one, and warnings."""
    listed = {row.name for row in rows}
    holding = find_images(root, listed)
    where = next(iter(holding)) if len(holding) == 1 else root
    paths = {name: path for files in holding.values() for name, path in files.items()}
    missing = tuple(row.name for row in rows if row.name not in paths)
    warnings = describe_unlisted(where, paths.keys() - listed, "label file")
    if not missing:
        return paths, missing, warnings
    are, first = "is" if len(missing) == 1 else "are", first_names(missing)
    text = (
        f"{len(missing):,} of {len(rows):,} listed images {are} missing from {where}/"
    )
    if not holding:
        raise LabelError(
            f"{text} and the folders in it, two deep: {first}; name the "
            "folder that holds the images"
        )
    if not allow_missing:
        raise LabelError(f"{text}: {first}; pass --allow-missing to go on without them")
    return paths, missing, [f"{text} and left out: {first}", *warnings]
