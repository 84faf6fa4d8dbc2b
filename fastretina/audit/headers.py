"""What a reader that takes the first line of a CSV for its header would lose.

``pandas.read_csv`` does so unless told otherwise, and the course's have no header.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from loaders.course import (
    GRADE_WORDS,
    IMAGE_WORDS,
    find_course_csvs,
    read_course_split,
    read_rows,
)
from loaders.shards import SPLITS


class LabelFiles(NamedTuple):
    """The two files of a split, and what becomes of them if a header is assumed.

    Attributes:
        split: ``train`` or ``test``.
        rows: number of samples that the files hold.
        image_header: whether the first line of the image file is a header.
        grade_header: whether the first line of the label file is a header.
        first: name of the first sample.
        grade: grade of the first sample.
    """

    split: str
    rows: int
    image_header: bool
    grade_header: bool
    first: str
    grade: int

    @property
    def rows_read(self) -> int:
        """Number of samples that a reader finds who assumes a header."""
        return self.rows - (not self.image_header)

    @property
    def shifted(self) -> bool:
        """Whether that reader pairs every image with the grade of its neighbour."""
        return self.image_header != self.grade_header

    def summary(self) -> dict[str, object]:
        """The two files' part of the JSON line."""
        lost = None if self.image_header else {"name": self.first, "grade": self.grade}
        return {
            "split": self.split,
            "rows": self.rows,
            "image_header": self.image_header,
            "grade_header": self.grade_header,
            "rows_with_header_assumed": self.rows_read,
            "lost": lost,
        }


def read_label_files(data: Path, layout: str) -> Sequence[LabelFiles]:
    """Look at the first lines of the course's files; empty for other layouts.

    Those are read by the names of their columns, so they have a header.
    """
    folder = find_course_csvs(data) if layout == "course" else None
    if folder is None:
        return ()
    files = []
    for split in SPLITS:
        names, grades = read_course_split(folder, split)
        files.append(
            LabelFiles(
                split,
                len(names),
                _has_header(folder / f"{split}_img.csv", IMAGE_WORDS),
                _has_header(folder / f"{split}_label.csv", GRADE_WORDS),
                names[0],
                grades[0],
            )
        )
    return files


def _has_header(path: Path, words: frozenset[str]) -> bool:
    """Whether the first line is a header, by the rule that samples are read by."""
    return read_rows(path)[0][1][0].casefold() in words
