"""The course's label files: four CSVs of one column, beside or inside the images.

    train_img.csv  train_label.csv  test_img.csv  test_label.csv

Line n of an image file and line n of its label file belong together. As handed out they
have no header line; reading them as if they had one loses the first sample of each
file, which is how 28,100 / 7,026 samples became the 28,099 / 7,025 of many reports. So
a header is recognised here by what it says, and never assumed.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import NamedTuple

from loaders.errors import LabelError
from loaders.formulas import names_are_guarded, unguarded
from loaders.grades import GRADES
from loaders.shards import SPLITS, SplitName
from loaders.untrusted import MOST_CSV, is_file, is_folder

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
COURSE_FILES = ("train_img.csv", "train_label.csv", "test_img.csv", "test_label.csv")

# What the first line of a column may say to be its header. No photograph is named like
# the first set, and no grade is written like the second.
IMAGE_WORDS = frozenset(
    {"image", "images", "img", "name", "names", "file", "filename", "id", "id_code"}
    | {"image_id", "image_name"}
)
GRADE_WORDS = frozenset(
    {"label", "labels", "level", "levels", "grade", "grades", "class", "diagnosis"}
)

_SHOWN = 100  # letters of a cell in a message
_GRADE_OF = {str(grade): grade for grade in range(len(GRADES))}


class Listed(NamedTuple):
    """One image as a label file (or a grade folder) lists it.

    Attributes:
        name: the listed name without an image suffix.
        grade: 0-4.
        place: where it stands, for messages: ``train_img.csv, line 3`` or a file.
    """

    name: str
    grade: int
    place: str


def read_course_split(folder: Path, mode: SplitName) -> tuple[list[str], list[int]]:
    """Names and grades of one split, in file order.

    Args:
        folder: holds ``{mode}_img.csv`` and ``{mode}_label.csv``.
        mode: ``train`` or ``test``.

    Returns:
        Names without image suffix, and grades 0-4: two lists of the same length.

    Raises:
        LabelError: a file is missing or malformed, the two differ in length, a grade is
            not an integer from 0 to 4, or a name stands twice.
    """
    rows = read_course_rows(folder, mode)
    return [row.name for row in rows], [row.grade for row in rows]


def read_course_rows(folder: Path, mode: SplitName) -> list[Listed]:
    """The samples of one split, in file order, each with the place it stands at.

    Raises:
        LabelError: as in `read_course_split`.
    """
    if mode not in SPLITS:
        raise ValueError(f"mode must be 'train' or 'test', got {mode!r}")
    image_file, label_file = folder / f"{mode}_img.csv", folder / f"{mode}_label.csv"
    names = read_column(image_file, IMAGE_WORDS)
    grades = read_column(label_file, GRADE_WORDS)
    if len(names) != len(grades):
        raise LabelError(
            f"{image_file} and {label_file} must be of the same length, got "
            f"{len(names):,} images and {len(grades):,} grades; "
            "line n of one belongs to line n of the other"
        )
    if not names:
        raise LabelError(f"{image_file} lists no image; fill it and {label_file.name}")
    read = unguarded if names_are_guarded(folder) else str
    rows = [
        Listed(
            strip_suffix(read(name)),
            parse_grade(grade, label_file, grade_line),
            f"{image_file}, line {line}",
        )
        for (line, name), (grade_line, grade) in zip(names, grades, strict=True)
    ]
    refuse_duplicates(rows)
    return rows


def find_course_csvs(root: Path) -> Path | None:
    """The folder that holds all four CSVs: ``root``, else its parent, else None."""
    for folder in (root, parent_of(root)):
        if all((folder / name).is_file() for name in COURSE_FILES):
            return folder
    return None


def parent_of(root: Path) -> Path:
    """The folder around ``root``, also where ``root`` is written ``.`` or ``..``."""
    # Path(".").parent is "." again; resolve() would leave the folder of a symlink.
    return Path(os.path.abspath(root)).parent


def read_column(path: Path, header_words: frozenset[str]) -> list[tuple[int, str]]:
    """The cells of a CSV of one column, top to bottom, each with its line number.

    Args:
        path: a UTF-8 file, with or without byte-order mark; LF, CRLF or CR; cells are
            unquoted as CSV has it and stripped; blank lines at its end are ignored.
        header_words: the first cell is a header, and left out, if it is one of these
            in any case.

    Raises:
        LabelError: the file cannot be read, has more than one column, or has a blank
            line before its end; file and line are named.
    """
    rows = read_rows(path)
    for line, cells in rows:
        if len(cells) != 1:
            raise LabelError(
                f"{path}, line {line}: must be one column, got {len(cells)}: "
                f"{_shown(','.join(cells[:99]))}; keep names and grades in a file each"
            )
    words = {word.casefold() for word in header_words}
    has_header = bool(rows) and rows[0][1][0].casefold() in words
    return [(line, cells[0]) for line, cells in rows[has_header:]]


def read_named_columns(path: Path, columns: tuple[str, str]) -> list[Listed]:
    """The samples of a CSV with a header, in file order; other columns are ignored.

    Args:
        path: delimited by comma, semicolon or tab, as its first line is.
        columns: header names, in lower case, of the images and of the grades.

    Raises:
        LabelError: the file is malformed or a grade isn't an integer from 0 to 4.
    """
    delimiter, header = read_header(path)
    image, grade = (_place_of(column, header, path) for column in columns)
    rows = []
    for line, cells in read_rows(path, delimiter)[1:]:
        if len(cells) != len(header):
            raise LabelError(
                f"{path}, line {line}: must have {len(header)} columns, as the header "
                f"has, got {len(cells)}; correct or remove that line"
            )
        if not cells[image]:
            raise LabelError(
                f"{path}, line {line}: column {columns[0]} must name an image, got "
                "nothing; correct or remove that line"
            )
        value = parse_grade(cells[grade], path, line)
        rows.append(Listed(strip_suffix(cells[image]), value, f"{path}, line {line}"))
    return rows


def read_one_column(path: Path, column: str) -> list[str]:
    """The cells of a column of a CSV with a header, in file order; some may be empty.

    Args:
        path: as for `read_named_columns`, which has read it before.
        column: its header name, in any case.

    Raises:
        LabelError: there is no such column.
    """
    delimiter, header = read_header(path)
    if column.lower() not in header:
        raise LabelError(
            f"{path}, line 1: must name the column {column!r}, got "
            f"{_shown(', '.join(header[:99]))}"
        )
    place = _place_of(column.lower(), header, path)
    return [cells[place] for _, cells in read_rows(path, delimiter)[1:]]


def _place_of(column: str, header: list[str], path: Path) -> int:
    """Where a column stands.

    Raises:
        LabelError: it stands there twice, and nobody can tell which is meant.
    """
    if header.count(column) > 1:
        raise LabelError(
            f"{path}, line 1: must name the column {column} once, got it "
            f"{header.count(column)} times; rename or remove the others"
        )
    return header.index(column)


def _shown(text: str) -> str:
    """A cell in a message, which may hold anything, of any length."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def read_rows(path: Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Every record of a CSV with its line number (from 1), cells stripped.

    Raises:
        LabelError: the file cannot be read as UTF-8 CSV, or has a blank line before
            its end.
    """
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if os.fstat(file.fileno()).st_size > MOST_CSV:
                raise LabelError(f"{path} has more than {MOST_CSV:,} bytes; cut it up")
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = []
            for cells in reader:
                line = reader.line_num
                if any("\0" in cell for cell in cells):  # UTF-16 without its mark
                    raise LabelError(
                        f"{path}, line {line}: a NUL is no text; save it as 'CSV UTF-8'"
                    )
                rows.append((line, [cell.strip() for cell in cells]))
    except OSError as error:
        raise LabelError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is not UTF-8; save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise LabelError(
            f"{path}: no CSV after line {line} ({error}); mend its quotes"
        ) from error
    while rows and not any(rows[-1][1]):
        rows.pop()
    for line, cells in rows:
        if not any(cells):
            raise LabelError(f"{path}, line {line} is blank; fill or remove that line")
    return rows


def read_header(path: Path) -> tuple[str, list[str]]:
    """Delimiter (comma, semicolon or tab) and lower-case cells of the first line.

    Raises:
        LabelError: the file cannot be opened.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline(10_000).replace("\0", "")  # any *.csv may come here
    except OSError as error:
        raise LabelError(f"{path}: {error.strerror}") from error
    delimiter = max(",;\t", key=line.count)
    cells = next(csv.reader([line], delimiter=delimiter), [])
    return delimiter, [cell.strip().lower() for cell in cells]


def parse_grade(text: str, path: Path, line: int) -> int:
    """A cell as a grade.

    Raises:
        LabelError: it isn't one of ``0`` to ``4``; file, line and value are named.
    """
    grade = _GRADE_OF.get(text)
    if grade is None:
        raise LabelError(
            f"{path}, line {line}: a grade must be an integer from 0 to 4, "
            f"got {_shown(text)}; correct or remove that line"
        )
    return grade


def refuse_duplicates(rows: Iterable[Listed]) -> None:
    """Raise `LabelError` where a name stands twice, naming both places."""
    first: dict[str, str] = {}
    for row in rows:
        if row.name in first:
            raise LabelError(
                f"{row.place}: a name must stand once, got {_shown(row.name)} again "
                f"(first: {first[row.name]}); remove or rename one of them"
            )
        first[row.name] = row.place


def strip_suffix(name: str) -> str:
    """``10_left.JPG`` -> ``10_left``; other endings, and names that are one, stay."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def index_images(folder: Path) -> dict[str, Path]:
    """Every image file right inside ``folder`` by its stem, in the order of stems.

    Costs one directory listing and no per-file ``stat``. Hidden files (``._a.jpeg``
    and the like, which macOS leaves behind) are no images.

    Raises:
        LabelError: there is no such folder, or a stem has two files.
    """
    return unique_stems(list_images(folder))


def list_images(folder: Path) -> dict[str, list[Path]]:
    """Every image file right inside ``folder``, listed by its stem, stems in order.

    Raises:
        LabelError: the folder can't be listed.
    """
    images: dict[str, list[Path]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() not in IMAGE_SUFFIXES or stem.startswith("."):
                    continue
                if is_file(entry):
                    images.setdefault(stem, []).append(Path(entry.path))
    except OSError as error:
        raise LabelError(f"{folder}: {error.strerror}") from error
    return dict(sorted(images.items()))


def list_folders(folder: Path) -> list[Path]:
    """The folders right inside ``folder``, by name, without the hidden ones.

    Raises:
        LabelError: the folder can't be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and is_folder(entry)
            ]
    except OSError as error:
        raise LabelError(f"{folder}: {error.strerror}") from error
    return [folder / name for name in sorted(names)]


def unique_stems(images: Mapping[str, list[Path]]) -> dict[str, Path]:
    """The one file of each stem of `list_images`.

    Raises:
        LabelError: a stem has two files; both are named.
    """
    for stem, paths in images.items():
        if len(paths) > 1:
            one, other = sorted(paths)[:2]
            raise LabelError(
                f"{one.parent}: image {stem!r} must be one file, got {one.name} and "
                f"{other.name}; remove or rename one of them"
            )
    return {stem: paths[0] for stem, paths in images.items()}


def find_images(root: Path, listed: Set[str]) -> dict[Path, dict[str, Path]]:
    """The images of the folders that hold a listed one: by folder, then by stem.

    Looks in ``root``, else in its child folders, else in theirs: the nearest level with
    a listed image is taken, every folder of it that holds one. Empty where none has.

    Raises:
        LabelError: a stem has two files in one of these folders, or a listed image is
            in two of them.
    """
    level = [root]
    for _ in range(3):
        images = {folder: list_images(folder) for folder in level}
        holding = {
            folder: unique_stems(stems)
            for folder, stems in images.items()
            if not listed.isdisjoint(stems)
        }
        if holding:
            _refuse_shared(holding, listed)
            return holding
        level = [child for folder in level for child in list_folders(folder)]
    return {}


def _refuse_shared(
    holding: Mapping[Path, Mapping[str, Path]], listed: Set[str]
) -> None:
    seen: dict[str, Path] = {}
    for folder, images in holding.items():
        for name in sorted(listed & images.keys() & seen.keys())[:1]:
            raise LabelError(
                f"image {name!r} must be in one folder, got {seen[name]} and {folder}; "
                "name the folder that is meant instead of the one around both"
            )
        seen |= dict.fromkeys(images, folder)
