"""The labels of a data set and its image files, read into one sample table.

    ROOT --layouts--> rows, grades --split--> train, test
                           |                      |
      keys.assign_keys <---+---> image files --> SampleTable

Images of a CSV layout. ROOT if it holds a listed image, else those of its child folders
that do, else those of its grandchildren. Several may share the listed images out (one
folder per grade, say), but none may be in two. Whatever else lies in ROOT, such as
Kaggle's unlabelled test/, is counted as left out, with the reason.

Splits. What has no test split gets one by patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastretina.data.drawn import DEMO_NOTE
from fastretina.data.keys import assign_keys
from fastretina.data.layout_names import LAYOUTS, SPLIT_NOTE, TEST_SHARE
from fastretina.data.layouts import find_layout, read_listing
from fastretina.data.left_out import LeftOutFiles, find_left_out, first_names
from fastretina.data.listing import Listing
from fastretina.data.patient_names import PatientEye, PatientSource
from fastretina.data.patients import group_split
from fastretina.data.tars import find_tars, read_tars
from loaders.course import (
    COURSE_FILES,
    Listed,
    find_images,
    refuse_duplicates,
)
from loaders.errors import LabelError
from loaders.grades import GRADES
from loaders.shards import SPLITS

_CROWD = 12  # photographs of a patient: both eyes at three visits, two fields each


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelOptions:
    """How the labels of a data set are to be read.

    Attributes:
        layout: one of ``layout_names.LAYOUTS``; None recognises it.
        labels: the CSV to read, for the layouts kaggle and aptos; None looks for it.
        patients: where the patients are told.
        test_share: share of the patients to test on, where the labels have no test
            split; above 0 and below 1.
        seed: another seed holds out other patients for that.
    """

    layout: str | None = None
    labels: Path | None = None
    patients: PatientSource = PatientSource()  # noqa: RUF009 (it is immutable)
    test_share: float = TEST_SHARE
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layout not in (None, *LAYOUTS):
            known = ", ".join(LAYOUTS)
            raise ValueError(f"layout must be one of {known}, got {self.layout!r}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph and what is known of it.

    Attributes:
        key: the sample's name in shards, unique in the table: 1 to 90 characters of
            ``[A-Za-z0-9_-]``.
        path: the image file; where it is expected if the table was read without images.
        grade: 0-4.
        split: ``train`` or ``test``.
        patient: name of the patient; the image's own where the patient is unknown.
        eye: ``left``, ``right``, or empty where it is unknown.
        patient_known: whether the patient is known.
        name: the image's name in its source, without an image suffix.
    """

    key: str
    path: Path
    grade: int
    split: str
    patient: str
    eye: str
    patient_known: bool
    name: str


@dataclass(frozen=True, slots=True)
class SampleTable:
    """All samples of a data set: train before test, each in the order of its source.

    Attributes:
        samples: in file order for CSVs, sorted by name for folders.
        layout: one of ``layout_names.LAYOUTS``.
        source: the file or the folder that the labels were read from.
        warnings: what was noticed and did not stop the reading, one line each.
        missing: listed names without an image, left out of ``samples``.
        own_split: whether the labels say what is test; else patients were held out.
        left_out: files in the folder that are not taken, by reason; empty where no
            image was looked for.
    """

    samples: tuple[Sample, ...]
    layout: str
    source: Path
    warnings: tuple[str, ...]
    missing: tuple[str, ...]
    own_split: bool
    left_out: tuple[LeftOutFiles, ...] = ()

    @property
    def patients_unknown(self) -> int:
        """Number of samples whose patient is unknown."""
        return sum(not sample.patient_known for sample in self.samples)

    @property
    def patients_in_both(self) -> frozenset[str]:
        """The patients, as far as they are known, who are in train and in test."""
        train, test = (
            {s.patient for s in self.samples if s.patient_known and s.split == split}
            for split in SPLITS
        )
        return frozenset(train & test)

    def counts(self) -> dict[str, dict[int, int]]:
        """Split to grade to number of samples; splits and grades are all there."""
        seen = Counter((sample.split, sample.grade) for sample in self.samples)
        return {
            split: {grade: seen[split, grade] for grade in range(len(GRADES))}
            for split in SPLITS
        }


def read_table(
    root: Path,
    how: LabelOptions = LabelOptions(),
    *,
    images: bool = True,
    allow_missing: bool = False,
    passed_over: Sequence[Path] = (),
    unpack_to: Callable[[], Path] | None = None,
) -> SampleTable:
    """Read a folder of graded photographs, in any layout of ``layouts``.

    35,126 rows with their images take about a second: folders are listed, and no
    image is opened.

    Args:
        root: the data set's folder, or its image folder.
        how: the labels are to be read.
        images: False takes the label files at their word (``path`` is then only where
            an image is expected). Grade folders are listed all the same.
        allow_missing: leave listed images that are missing out, with a warning.
        passed_over: folders whose files are neither read nor counted as left out.
        unpack_to: makes an empty folder for the images of the layout ``tars``, which
            can't be read without.

    Raises:
        LabelError: there is no such layout, or what it says is contradictory or
            incomplete; the message names file, line and value where there are any.
        ValueError: the share to hold out is outside (0, 1).
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise LabelError(f"{root} {what}; name the folder that holds the data set")
    layout, source = find_layout(root, how.layout, how.labels, passed_over)
    if layout == "tars":
        listing = _read_tars(root, how, passed_over, unpack_to)
    else:
        listing = read_listing(layout, source, how.patients.column)
    rows, warnings = listing.rows, [*listing.warnings]
    _refuse_bad_rows(source, rows)
    eyes = _read_eyes(source, listing, how.patients)
    warnings += _warn_of_crowds(eyes)
    splits = listing.splits or _split_by_patient(rows, eyes, how)
    missing: tuple[str, ...] = ()
    if listing.paths is not None:
        paths = listing.paths
    elif images:
        paths, missing, notes = _match_images(root, rows, allow_missing)
        warnings += notes
    else:
        paths = _expected_paths(root, rows, layout)
    samples = _samples(zip(rows, eyes, splits, strict=True), paths)
    warnings += _warn_of_empty_splits(samples)
    table = SampleTable(
        samples=samples,
        layout=layout,
        source=source,
        warnings=tuple(warnings),
        missing=missing,
        own_split=listing.splits is not None,
    )
    if images or layout == "folders":  # which were listed to be read at all
        taken = [*paths.values(), *listing.read]
        left_out = list_left_out(root, table, taken, passed_over)
        return replace(table, left_out=listing.left_out + left_out)
    return table


def _refuse_bad_rows(source: Path, rows: Sequence[Listed]) -> None:
    if not rows:
        raise LabelError(f"{source} lists no image; a data set needs one at least")
    refuse_duplicates(rows)


def _warn_of_empty_splits(samples: Iterable[Sample]) -> list[str]:
    there = {sample.split for sample in samples}
    return [f"the {split} split is empty" for split in SPLITS if split not in there]


def _read_tars(
    root: Path,
    how: LabelOptions,
    passed_over: Sequence[Path],
    unpack_to: Callable[[], Path] | None,
) -> Listing:
    if unpack_to is None:
        raise LabelError(
            f"{root} holds tars without an index: 'fastretina shard {root} new_shards' "
            "makes shards of them; name new_shards"
        )
    # Before there is a folder that an interrupt would have to remove: it imports torch,
    # and is waited for a moment only.
    import webdataset  # noqa: F401

    return read_tars(root, find_tars(root, passed_over), unpack_to(), how.patients)


def layout_in(root: Path) -> str | None:
    """The layout of the labels that a folder, or the one around it, holds, if any."""
    try:
        return find_layout(root, None, None)[0]
    except (LabelError, OSError):
        return None


def list_left_out(
    root: Path,
    table: SampleTable,
    taken: Iterable[Path],
    passed_over: Iterable[Path] = (),
) -> tuple[LeftOutFiles, ...]:
    """The files below a data set's folder that are not taken, by reason.

    Args:
        root: the folder.
        table: what was read of it.
        taken: the images that are.
        passed_over: other files, and folders, that are no photographs on purpose.
    """
    where = "in no label file"
    labels = [root / name for name in (DEMO_NOTE, SPLIT_NOTE)]
    if table.layout == "folders":
        where = "not right inside a grade folder"
    elif table.layout == "course":
        labels += [table.source / name for name in COURSE_FILES]
    else:
        labels.append(table.source)
    return find_left_out(root, taken, where, [*labels, *passed_over])


def _read_eyes(
    source: Path, listing: Listing, patients: PatientSource
) -> list[PatientEye]:
    """Whose eye each row's photograph shows.

    Raises:
        LabelError: patients were named, and not one is found.
    """
    rows = listing.rows
    eyes = listing.eyes or [patients.read(row.name, listing.patients) for row in rows]
    named = patients.column is not None or patients.pattern is not None
    if named and not any(eye.known for eye in eyes):
        raise LabelError(
            f"{source}: no patient is identified from {patients.describe()}; the first "
            f"image is {rows[0].name!r}"
        )
    return eyes


def _warn_of_crowds(eyes: Sequence[PatientEye]) -> list[str]:
    """Warn where what is taken for a patient has a good part of all photographs."""
    counts = Counter(eye.patient for eye in eyes if eye.known).most_common(1)
    return [
        f"one patient, {patient!r}, has {number:,} of {len(eyes):,} photographs; if "
        "that is no patient, tell them by --patient-pattern"
        for patient, number in counts
        if number > _CROWD and number * 10 > len(eyes)
    ]


def _samples(
    listed: Iterable[tuple[Listed, PatientEye, str]], paths: dict[str, Path]
) -> tuple[Sample, ...]:
    everything = list(listed)
    keys = assign_keys(row.name for row, _, _ in everything)
    return tuple(
        Sample(
            key=keys[row.name],
            path=paths[row.name],
            grade=row.grade,
            split=split,
            patient=eye.patient,
            eye=eye.eye,
            patient_known=eye.known,
            name=row.name,
        )
        for wanted in SPLITS
        for row, eye, split in everything
        if split == wanted and row.name in paths
    )


def _split_by_patient(
    rows: Sequence[Listed], eyes: Sequence[PatientEye], how: LabelOptions
) -> list[str]:
    patients = [eye.patient for eye in eyes]
    grades = [row.grade for row in rows]
    held_out = group_split(patients, grades, how.test_share, how.seed)
    return ["test" if out else "train" for out in held_out.tolist()]


def _expected_paths(root: Path, rows: Sequence[Listed], layout: str) -> dict[str, Path]:
    """Where each row's image would be, by its name."""
    suffix = ".png" if layout == "aptos" else ".jpeg"
    return {row.name: root / f"{row.name}{suffix}" for row in rows}


def _match_images(
    root: Path, rows: Sequence[Listed], allow_missing: bool
) -> tuple[dict[str, Path], tuple[str, ...], list[str]]:
    """Find the images: name to path, the names without one, and a warning of these."""
    listed = {row.name for row in rows}
    holding = find_images(root, listed)
    where = next(iter(holding)) if len(holding) == 1 else root
    files = {name: path for each in holding.values() for name, path in each.items()}
    paths = {name: path for name, path in files.items() if name in listed}
    missing = tuple(row.name for row in rows if row.name not in paths)
    if not missing:
        return paths, missing, []
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
    return paths, missing, [f"{text} and left out: {first}"]
