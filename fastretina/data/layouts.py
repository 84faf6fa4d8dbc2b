"""Recognise the layout of a data set's labels, and list what they say.

    course    the four CSVs of loaders/course.py, in ROOT or in its parent
    kaggle    a CSV with the columns image, level      (EyePACS 2015: trainLabels.csv)
    aptos     a CSV with the columns id_code, diagnosis         (APTOS 2019: train.csv)
    folders   a folder per grade, 0 to 4 or No_DR ... Proliferative, in ROOT or in
              ROOT/train, ROOT/test and ROOT/val
    tars      WebDataset tars without an index, in ROOT or in folders below it

Recognising. ROOT is looked at first, then its parent (for CSVs only); the nearer one
that holds a layout decides. There the course's four files win over anything else, as
nothing but the course is named like that; two other finds are an error. Among CSVs one
with a usual name (trainLabels, train, labels) wins; Kaggle's sample submissions, which
have the same columns and every grade 0, are never taken. Tars count where ROOT holds no
other layout and no photograph.

Images in a val folder count as train, with a warning: the trainer holds out patients of
its own to validate on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from fastretina.data.layout_names import LAYOUTS
from fastretina.data.left_out import first_names
from fastretina.data.listing import Listing
from fastretina.data.tars import find_tars
from loaders.contents import describe_mistake, look_into
from loaders.course import (
    COURSE_FILES,
    Listed,
    list_folders,
    list_images,
    parent_of,
    read_course_rows,
    read_header,
    read_named_columns,
    read_one_column,
    unique_stems,
)
from loaders.errors import LabelError
from loaders.grades import GRADES

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
    "tars": "WebDataset tars, *.tar, and no photographs",
}


def find_layout(
    root: Path,
    layout: str | None,
    labels: Path | None,
    passed_over: Collection[Path] = (),
) -> tuple[str, Path]:
    """Find a data set's labels.

    Args:
        root: the data set's folder, or its image folder.
        layout: one of ``layout_names.LAYOUTS``; None recognises it.
        labels: the CSV to read; None looks for it.
        passed_over: folders in which no tars are looked for.

    Returns:
        The layout, and the folder or file that it is read from.

    Raises:
        LabelError: there are no such labels, or more than one kind of them.
    """
    if labels is not None:
        return _layout_of_file(labels, layout), labels
    wanted = LAYOUTS if layout is None else (layout,)
    for folder in (root, parent_of(root)):
        layouts = _layouts_in(folder, wanted)
        if folder is root and "folders" in wanted and _grade_bases(root):
            layouts.append(("folders", root))
        if folder is root and "tars" in wanted and not layouts:
            layouts += [("tars", root)] if find_tars(root, passed_over) else []
        if "course" in dict(layouts):
            return "course", folder
        if len(layouts) > 1:
            names = ", ".join(f"{name} ({source.name})" for name, source in layouts)
            raise LabelError(
                f"{folder} must hold one layout, got {len(layouts)}: {names}; "
                "choose with --layout, or name the CSV with --labels FILE"
            )
        if layouts:
            return layouts[0]
    if look_into(root) in ("shards", "run", "runs", "experiment"):
        raise LabelError(
            f"{root} {describe_mistake(root)}, not photographs and their labels: name "
            "the folder that does"
        )
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
        got = ", ".join(read_header(labels)[1])[:200]
        raise LabelError(
            f"{labels}, line 1: must be a header with the columns {columns}, got "
            f"{got!r}; name the columns so, or choose another file with --labels"
        )
    return found


def read_listing(layout: str, source: Path, patient_column: str | None) -> Listing:
    """Read the labels that `find_layout` has found.

    Args:
        layout: of the labels.
        source: the folder or file that they are read from.
        patient_column: the column of a CSV that names patients; None for none.

    Raises:
        LabelError: they are contradictory or incomplete, or have no such column.
    """
    if layout in _COLUMNS:
        rows = read_named_columns(source, _COLUMNS[layout])
        if patient_column is None:
            return Listing(rows)
        cells = read_one_column(source, patient_column)
        return Listing(
            rows,
            patients={row.name: cell for row, cell in zip(rows, cells, strict=True)},
        )
    if patient_column is not None:
        raise LabelError(
            f"--patient-column names a column of a label file with a header, and "
            f"{source} has none; --patient-pattern finds patients in image names"
        )
    if layout == "folders":
        return _read_folders(source)
    train = read_course_rows(source, "train")
    test = read_course_rows(source, "test")
    return Listing(train + test, ["train"] * len(train) + ["test"] * len(test))


def _folder_grade(folder: Path) -> int | None:
    return _FOLDER_GRADES.get(re.sub(r"[ _-]", "", folder.name).lower())


def _grade_bases(root: Path) -> dict[Path, str]:
    """Folders that hold grade folders, each with its split (empty: it has none)."""
    splits = {root: ""}
    for child in list_folders(root):
        if child.name.lower() in _SPLIT_FOLDERS:
            splits[child] = _SPLIT_FOLDERS[child.name.lower()]
    return {
        base: split
        for base, split in splits.items()
        if any(_folder_grade(child) is not None for child in list_folders(base))
    }


class _GradedFile(NamedTuple):
    """An image of a grade folder; ``split`` is empty, ``train``, ``test``, ``val``."""

    name: str
    path: Path
    split: str
    grade: int


def _read_folders(root: Path) -> Listing:
    bases = _grade_bases(root)
    if root in bases and len(bases) > 1:
        raise LabelError(
            f"{root} must hold its grade folders directly or in split folders, got "
            f"both: {first_names([base.name for base in bases])}; move one of them away"
        )
    images: list[_GradedFile] = []
    for base, split in bases.items():
        for child in list_folders(base):
            files, grade = list_images(child), _folder_grade(child)
            if grade is not None:
                stems = unique_stems(files)
                images += (_GradedFile(n, p, split, grade) for n, p in stems.items())
            elif files and child.name.isdecimal():
                raise LabelError(
                    f"{child}: a grade must be an integer from 0 to 4, got "
                    f"{child.name!r}; rename the folder or move it away"
                )
    images.sort()
    splits = ["test" if image.split == "test" else "train" for image in images]
    warnings = []
    if num_val := sum(image.split == "val" for image in images):
        warnings.append(f"the val split counts as train, images: {num_val:,}")
    return Listing(
        [Listed(image.name, image.grade, str(image.path)) for image in images],
        splits if "test" in bases.values() else None,
        {image.name: image.path for image in images},
        warnings=tuple(warnings),
    )
