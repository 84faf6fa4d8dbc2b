"""The folder layouts people have, read into one sample table.

    course    the four CSVs of loaders/_course.py, in ROOT or in its parent
    kaggle    a CSV with the columns image, level      (EyePACS 2015: trainLabels.csv)
    aptos     a CSV with the columns id_code, diagnosis         (APTOS 2019: train.csv)
    folders   a folder per grade, 0 to 4 or No_DR ... Proliferative, in ROOT or in
              ROOT/train, ROOT/test and ROOT/val

Recognising. ROOT is looked at first, then its parent (for CSVs only); the nearer one
that holds a layout decides. There the course's four files win over anything else, as
nothing but the course is named like that; two other finds are an error. Among CSVs one
with a usual name (trainLabels, train, labels) wins; Kaggle's sample submissions, which
have the same columns and every grade 0, are never taken.

Images of a CSV layout. ROOT if it holds a listed image, else those of its child folders
that do, else those of its grandchildren. Several may share the listed images out (one
folder per grade, say), but none may be in two. Folders without a listed image, such as
Kaggle's unlabelled test/, are left alone.

Splits. What has no test split gets one by patient. Images in a val folder count as
train, with a warning: the trainer holds out patients of its own to validate on.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fastretina.data.split import group_split, patient_and_eye
from loaders.course import (
    COURSE_FILES,
    Listed,
    find_images,
    list_folders,
    list_images,
    parent_of,
    read_course_rows,
    read_header,
    read_named_columns,
    refuse_duplicates,
    unique_stems,
)
from loaders.errors import LabelError
from loaders.grades import GRADES
from loaders.shards import SPLITS

LAYOUTS = ("course", "kaggle", "aptos", "folders")

_COLUMNS = {"kaggle": ("image", "level"), "aptos": ("id_code", "diagnosis")}
_USUAL_NAMES = ("trainlabels.csv", "train.csv", "labels.csv")
_SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "val", "valid": "val"}
_FOLDER_GRADES = {
    **{str(grade): grade for grade in range(len(GRADES))},
    **{name.replace(" ", "").lower(): grade for grade, name in enumerate(GRADES)},
    **dict.fromkeys(("proliferativedr", "proliferatedr"), 4),
}
_LOOKED_FOR = {
    "course": ", ".join(COURSE_FILES),
    "kaggle": "a CSV with the columns image and level",
    "aptos": "a CSV with the columns id_code and diagnosis",
    "folders": "a folder per grade: 0 to 4, or No_DR, Mild, ... Proliferative",
}
_KEY_LENGTH = 90  # with ".json" a USTAR name stays under 100 bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph and what is known of it.

    Attributes:
        key: its name in shards: ``[A-Za-z0-9_-]``, at most 90, unique in the table.
        path: the image file; where it is expected if the table was read without images.
        grade: 0-4.
        split: ``train`` or ``test``.
        patient: the name without ``_left`` / ``_right``.
        eye: ``left``, ``right``, or empty where the name doesn't say.
        name: as the source lists it, without an image suffix.
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
        layout: one of `LAYOUTS`.
        warnings: what was noticed and did not stop the reading, one line each.
        missing: listed names without an image, left out of ``samples``.
    """

    samples: tuple[Sample, ...]
    layout: str
    warnings: tuple[str, ...]
    missing: tuple[str, ...]

    def counts(self) -> dict[str, dict[int, int]]:
        """Samples per split and grade; both splits and all five grades are there."""
        seen = Counter((sample.split, sample.grade) for sample in self.samples)
        return {
            split: {grade: seen[split, grade] for grade in range(len(GRADES))}
            for split in SPLITS
        }


@dataclass(frozen=True, slots=True)
class _Listing:
    """What the labels say: rows, and what else their layout knows already."""

    rows: list[Listed]
    splits: list[str] | None = None  # of each row; None: to be made by patient
    paths: dict[str, Path] | None = None  # None: still to be found
    warnings: tuple[str, ...] = ()


def read_table(
    root: Path,
    *,
    layout: str | None = None,
    labels: Path | None = None,
    images: bool = True,
    allow_missing: bool = False,
    test_share: float = 0.2,
    seed: int = 0,
) -> SampleTable:
    """Read a folder of graded photographs, in any layout of the module's docstring.

    35,126 rows with their images take about a second: folders are listed, and no
    image is opened.

    Args:
        root: the data set's folder, or its image folder.
        layout: one of `LAYOUTS`; None recognises it.
        labels: the CSV to read, for the layouts kaggle and aptos; None looks for it.
        images: False takes the label files at their word (``path`` is then only where
            an image is expected). Grade folders are listed all the same.
        allow_missing: leave listed images that are missing out, with a warning.
        test_share: of the patients, for layouts without a test split.
        seed: of that test split.

    Raises:
        LabelError: there is no such layout, or what it says is contradictory or
            incomplete; the message names file, line and value where there are any.
        ValueError: ``layout`` is unknown or ``test_share`` outside (0, 1).
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise LabelError(f"{root} {what}; name the folder that holds the data set")
    layout, source = _locate(root, layout, labels)
    listing = _read_listing(layout, source)
    rows, warnings = listing.rows, [*listing.warnings]
    if not rows:
        raise LabelError(f"{source} lists no image; a data set needs one at least")
    refuse_duplicates(rows)
    splits = listing.splits or _split_by_patient(rows, test_share, seed)
    paths = listing.paths
    missing: tuple[str, ...] = ()
    if paths is None and images:
        paths, missing, notes = _match(root, rows, allow_missing)
        warnings += notes
    elif paths is None:
        suffix = ".png" if layout == "aptos" else ".jpeg"
        paths = {row.name: root / f"{row.name}{suffix}" for row in rows}
    samples = _samples(rows, splits, paths)
    for split in SPLITS:
        if all(sample.split != split for sample in samples):
            warnings.append(f"the {split} split is empty")
    return SampleTable(samples, layout, tuple(warnings), missing)


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


def assign_keys(names: Iterable[str]) -> dict[str, str]:
    """A key for every name: legal in a shard, and another one for every other name.

    Whatever a key can't hold becomes ``-``. Names that fall together by that, or are
    longer than 90 characters, get ``-`` and 8 hexadecimal digits of their SHA-256, all
    of them, so a key depends on the set of names and not on their order.
    """
    plain = {name: re.sub(r"[^A-Za-z0-9_-]", "-", name) for name in names}
    digits = {
        name: 8 * (not key or len(key) > _KEY_LENGTH) for name, key in plain.items()
    }
    while True:
        keys = {name: _key(name, plain[name], digits[name]) for name in plain}
        uses = Counter(keys.values())
        clashing = [name for name, key in keys.items() if uses[key] > 1]
        if not clashing:
            return keys
        for name in clashing:  # a second round: a name spelt like another's key
            digits[name] += 8


def _key(name: str, plain: str, num_digits: int) -> str:
    if not num_digits:
        return plain
    digest = sha256(name.encode(errors="surrogatepass")).hexdigest()[:num_digits]
    return f"{plain[: _KEY_LENGTH - 1 - num_digits]}-{digest}"


def _split_by_patient(rows: Sequence[Listed], share: float, seed: int) -> list[str]:
    patients = [patient_and_eye(row.name)[0] for row in rows]
    held_out = group_split(patients, [row.grade for row in rows], share, seed)
    return ["test" if out else "train" for out in held_out.tolist()]


def _locate(root: Path, layout: str | None, labels: Path | None) -> tuple[str, Path]:
    """The layout, and the folder or file it is read from."""
    if labels is not None:
        return _layout_of_file(labels, layout), labels
    wanted = LAYOUTS if layout is None else (layout,)
    for folder in (root, parent_of(root)):
        found = _layouts_in(folder, wanted)
        if folder is root and "folders" in wanted and _grade_bases(root):
            found.append(("folders", root))
        if "course" in dict(found):
            return "course", folder
        if len(found) > 1:
            names = ", ".join(f"{layout} ({source.name})" for layout, source in found)
            raise LabelError(
                f"{folder} must hold one layout, got {len(found)}: {names}; "
                "choose with --layout, or name the CSV with --labels FILE"
            )
        if found:
            return found[0]
    looked_for = "; ".join(f"{layout} ({_LOOKED_FOR[layout]})" for layout in wanted)
    near = [f for f in COURSE_FILES if (root / f).is_file() or (folder / f).is_file()]
    only = f", found only {', '.join(near)}" if near and "course" in wanted else ""
    raise LabelError(
        f"{root} and its parent hold no labels; looked for {looked_for}{only}; "
        "choose with --layout, or name the CSV with --labels FILE"
    )


def _layouts_in(folder: Path, wanted: Collection[str]) -> list[tuple[str, Path]]:
    if "course" in wanted and all((folder / name).is_file() for name in COURSE_FILES):
        return [("course", folder)]
    names = [name for name in os.listdir(folder) if name.lower().endswith(".csv")]
    tables = [layout for layout in wanted if layout in _COLUMNS]
    found = [
        (layout, folder / name)
        for name in sorted(names)
        if not name.lower().replace("_", "").startswith("samplesubmission")
        and (folder / name).is_file()
        and (layout := _table_layout(folder / name, tables))
    ]
    return [one for one in found if one[1].name.lower() in _USUAL_NAMES] or found


def _table_layout(path: Path, wanted: Collection[str]) -> str | None:
    header = set(read_header(path)[1])
    fitting = (layout for layout in wanted if header.issuperset(_COLUMNS[layout]))
    return next(fitting, None)


def _layout_of_file(labels: Path, layout: str | None) -> str:
    if layout not in (None, *_COLUMNS):
        raise LabelError(
            f"--labels goes with the layouts {' and '.join(_COLUMNS)}, got --layout "
            f"{layout}; leave one of the two out"
        )
    if not labels.is_file():
        raise LabelError(f"{labels} does not exist; --labels must name a CSV file")
    wanted = tuple(_COLUMNS) if layout is None else (layout,)
    found = _table_layout(labels, wanted)
    if found is None:
        columns = " or ".join(" and ".join(_COLUMNS[layout]) for layout in wanted)
        raise LabelError(
            f"{labels}, line 1: must be a header with the columns {columns}, got "
            f"{', '.join(read_header(labels)[1])!r}; name the columns so, or choose "
            "another file with --labels"
        )
    return found


def _read_listing(layout: str, source: Path) -> _Listing:
    if layout == "folders":
        return _read_folders(source)
    if layout == "course":
        train = read_course_rows(source, "train")
        test = read_course_rows(source, "test")
        splits = ["train"] * len(train) + ["test"] * len(test)
        return _Listing(train + test, splits)
    return _Listing(read_named_columns(source, _COLUMNS[layout]))


def _folder_grade(folder: Path) -> int | None:
    return _FOLDER_GRADES.get(re.sub(r"[ _-]", "", folder.name).lower())


def _grade_bases(root: Path) -> dict[Path, str]:
    """The folders that hold grade folders, each with its split (empty: none)."""
    splits = {root: ""}
    for child in list_folders(root):
        if child.name.lower() in _SPLIT_FOLDERS:
            splits[child] = _SPLIT_FOLDERS[child.name.lower()]
    return {
        base: split
        for base, split in splits.items()
        if any(_folder_grade(child) is not None for child in list_folders(base))
    }


def _read_folders(root: Path) -> _Listing:
    bases = _grade_bases(root)
    if root in bases and len(bases) > 1:
        raise LabelError(
            f"{root} must hold its grade folders directly or in split folders, got "
            f"both: {_first([base.name for base in bases])}; move one of them away"
        )
    found: list[tuple[str, Path, str, int]] = []  # name, path, split, grade
    strays = [name for folder in {root, *bases} for name in list_images(folder)]
    for base, split in bases.items():
        for child in list_folders(base):
            images, grade = list_images(child), _folder_grade(child)
            if grade is not None:
                files = unique_stems(images)
                found += ((name, path, split, grade) for name, path in files.items())
                continue
            if images and child.name.isdecimal():
                raise LabelError(
                    f"{child}: a grade must be an integer from 0 to 4, got "
                    f"{child.name!r}; rename the folder or move it away"
                )
            strays += images
    found.sort()
    splits = ["test" if split == "test" else "train" for _, _, split, _ in found]
    warnings = _unlisted(root, strays, "grade folder")
    if num_val := sum(split == "val" for _, _, split, _ in found):
        warnings.append(f"the val split counts as train, images: {num_val:,}")
    return _Listing(
        [Listed(name, grade, str(path)) for name, path, _, grade in found],
        splits if "test" in bases.values() else None,
        {name: path for name, path, _, _ in found},
        tuple(warnings),
    )


def _match(
    root: Path, rows: Sequence[Listed], allow_missing: bool
) -> tuple[dict[str, Path], tuple[str, ...], list[str]]:
    """Paths by name, the names without one, and warnings."""
    listed = {row.name for row in rows}
    holding = find_images(root, listed)
    where = next(iter(holding)) if len(holding) == 1 else root
    paths = {name: path for found in holding.values() for name, path in found.items()}
    missing = tuple(row.name for row in rows if row.name not in paths)
    warnings = _unlisted(where, paths.keys() - listed, "label file")
    if not missing:
        return paths, missing, warnings
    are = "is" if len(missing) == 1 else "are"
    text = (
        f"{len(missing):,} of {len(rows):,} listed images {are} missing from {where}/"
    )
    if not holding:
        raise LabelError(
            f"{text} and the folders in it, two deep: {_first(missing)}; name the "
            "folder that holds the images"
        )
    if not allow_missing:
        raise LabelError(
            f"{text}: {_first(missing)}; pass --allow-missing to go on without them"
        )
    return paths, missing, [f"{text} and left out: {_first(missing)}", *warnings]


def _unlisted(folder: Path, names: Collection[str], source: str) -> list[str]:
    if not names:
        return []
    images = "1 image" if len(names) == 1 else f"{len(names):,} images"
    return [f"{images} in {folder}/ left out, in no {source}: {_first(sorted(names))}"]


def _first(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
