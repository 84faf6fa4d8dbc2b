"""Label files as people, editors and spreadsheets leave them, and as damage does.

What changes nothing (line ends, a BOM, quotes ...) gives the very same table. Whatever
else is done to a file, the table says what the file says, or one line names it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

from torture.campaign import Case, Counts, Fault
from torture.deadline import in_time
from torture.odd_values import Rng, odd_bytes, pick

SECONDS = 30
Row = tuple[str, int, str]  # name, grade, split
Rows = list[list[str]]

# Names that lists hold: with commas, quotes, dots, other letters and what looks like a
# formula, a grade or a header.
NAMES = (
    *(f"{n}_{eye}" for n in range(10, 22) for eye in ("left", "right")),
    *("IM,1_left", 'IM"2"_left', "IM;3_left", "眼底 4_left", "Größe_OD_5", "1.2.840.6"),
    *("-7_left", "=8_right", "'9_left", "No_DR", "0", "x" * 120, "a.b.jpeg.c", "10_OS"),
)
COLUMNS = {"kaggle": ("image", "level"), "aptos": ("id_code", "diagnosis")}


class TextFiles:
    """Each case writes a small set in one layout, and does one thing to its labels."""

    name, share, least, in_tests = "text_files", 4.0, 1000, 120

    def prepare(self, folder: Path) -> None:
        self._images = folder / "images"
        self._images.mkdir()
        for name in NAMES:
            (self._images / f"{name}.jpeg").touch()

    def run(self, case: Case) -> Counts:
        rng = case.rng()
        layout = pick(rng, ("course", "kaggle", "aptos"))
        rows = _draw_rows(rng)
        root = case.folder / "set"
        root.mkdir()
        (root / "data").symlink_to(self._images)
        files = _write(root, layout, rows)
        if rng.random() < 0.4:
            how = pick(rng, _HARMLESS if layout == "course" else _HARMLESS + _OF_TABLES)
            for file in files:
                how(rng, file)
            _same_table(root, rows, layout, how.__name__.strip("_"))
            return {"harmless": 1}
        file = pick(rng, files)
        how = pick(rng, _HARMFUL)
        how(rng, file)
        taken = _judge(root, files, layout, how.__name__.strip("_"))
        return {"taken": 1} if taken else {"refused": 1}

    def close(self) -> None:
        pass


def _draw_rows(rng: Rng) -> list[Row]:
    chosen = rng.permutation(len(NAMES))[: int(rng.integers(8, len(NAMES)))]
    splits = ["train", "test", *(pick(rng, ("train", "test")) for _ in chosen[2:])]
    rows = [
        (NAMES[n], int(rng.integers(5)), split)
        for n, split in zip(chosen, splits, strict=True)
    ]
    return sorted(rows, key=lambda row: row[2] != "train")


def _write(root: Path, layout: str, rows: list[Row]) -> list[Path]:
    """The label files of a layout, quoted where that is needed alone."""
    if layout != "course":
        file = root / "trainLabels.csv"
        _put(file, [list(COLUMNS[layout]), *([name, str(g)] for name, g, _ in rows)])
        return [file]
    files = []
    for split in ("train", "test"):
        part = [row for row in rows if row[2] == split]
        for column, place in (("img", 0), ("label", 1)):
            files.append(root / f"{split}_{column}.csv")
            _put(files[-1], [[str(row[place])] for row in part])
    return files


def _put(file: Path, rows: Rows, **form: object) -> None:
    text = io.StringIO()
    csv.writer(text, **{"lineterminator": "\n", **form}).writerows(rows)  # type: ignore[arg-type]
    file.write_text(text.getvalue(), encoding="utf-8", newline="")


def _rows(file: Path) -> Rows:
    return list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))


# --- what changes nothing ------------------------------------------------------------


def _nothing(rng: Rng, file: Path) -> None: ...


def _bom(rng: Rng, file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


def _crlf(rng: Rng, file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))


def _cr(rng: Rng, file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r"))


def _quoted(rng: Rng, file: Path) -> None:
    _put(file, _rows(file), quoting=csv.QUOTE_ALL)


def _no_last_line_end(rng: Rng, file: Path) -> None:
    file.write_bytes(file.read_bytes().rstrip(b"\n"))


def _blank_at_the_end(rng: Rng, file: Path) -> None:
    file.write_bytes(file.read_bytes() + pick(rng, (b"\n", b"\n\n \n", b"\r\n\r\n")))


def _spaces(rng: Rng, file: Path) -> None:
    spaced = [[f"  {cell} " for cell in row] for row in _rows(file)]
    _put(file, spaced, quoting=csv.QUOTE_ALL)


def _suffixes(rng: Rng, file: Path) -> None:
    if file.name.endswith("_label.csv"):
        return
    header = [] if file.name.endswith("_img.csv") else _rows(file)[:1]
    suffix = pick(rng, (".jpeg", ".JPG", ".png", ".tiff"))
    rest = [[f"{row[0]}{suffix}", *row[1:]] for row in _rows(file)[len(header) :]]
    _put(file, [*header, *rest])


def _bom_and_crlf_and_quotes(rng: Rng, file: Path) -> None:
    _quoted(rng, file)
    _crlf(rng, file)
    _bom(rng, file)


def _semicolons(rng: Rng, file: Path) -> None:
    _put(file, _rows(file), delimiter=pick(rng, (";", "\t")))


def _more_columns(rng: Rng, file: Path) -> None:
    head, *rows = _rows(file)
    _put(file, [["", *head, "note"], *([str(n), *r, ""] for n, r in enumerate(rows))])


def _other_order(rng: Rng, file: Path) -> None:
    _put(file, [row[::-1] for row in _rows(file)])


def _capitals(rng: Rng, file: Path) -> None:
    head, *rows = _rows(file)
    _put(file, [[cell.upper() for cell in head], *rows])


Mutation = Callable[[Rng, Path], None]
_HARMLESS: tuple[Mutation, ...] = (
    *(_nothing, _bom, _crlf, _cr, _quoted, _no_last_line_end, _blank_at_the_end),
    *(_spaces, _suffixes, _bom_and_crlf_and_quotes),
)
_OF_TABLES: tuple[Mutation, ...] = (
    *(_semicolons, _more_columns, _other_order, _capitals),
)


def _same_table(root: Path, rows: list[Row], layout: str, how: str) -> None:
    from fastretina.data.labels import read_table

    table = read_table(root)
    found = {
        (s.name, s.grade, s.split if layout == "course" else "") for s in table.samples
    }
    wanted = {(n, g, split if layout == "course" else "") for n, g, split in rows}
    if found != wanted or len(table.samples) != len(rows):
        raise Fault(f"{layout}, {how}: the table differs: {found ^ wanted}")
    if len({sample.path for sample in table.samples}) != len(rows):
        raise Fault(f"{layout}, {how}: two samples share a photograph")
    wrong = [s for s in table.samples if s.path.name != f"{s.name}.jpeg"]
    if wrong:
        raise Fault(f"{layout}, {how}: {wrong[0].name} has {wrong[0].path.name}")


# --- what changes something ----------------------------------------------------------


def _any_bytes(rng: Rng, file: Path) -> None:
    file.write_bytes(odd_bytes(rng, file.read_bytes()))


def _other_encoding(rng: Rng, file: Path) -> None:
    kind = pick(
        rng, ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "gb18030")
    )
    text = file.read_text(encoding="utf-8")
    file.write_bytes(text.encode(kind, errors="replace"))


def _nul(rng: Rng, file: Path) -> None:
    content = file.read_bytes()
    place = int(rng.integers(len(content)))
    file.write_bytes(
        content[:place] + b"\0" * int(rng.integers(1, 4)) + content[place:]
    )


def _open_quote(rng: Rng, file: Path) -> None:
    content = file.read_bytes()
    place = int(rng.integers(len(content)))
    file.write_bytes(content[:place] + b'"' + content[place:])


def _odd_cell(rng: Rng, file: Path) -> None:
    rows = _rows(file)
    row = pick(rng, rows)
    cells = (
        *(
            "",
            " ",
            "5",
            "-1",
            "2.0",
            "1e0",
            "\u0966",
            "²",
            "nan",
            "None",
            "01",
            "+1",
            "0x1",
        ),
        *(
            "../../etc/passwd",
            "/etc/passwd",
            "..",
            ".",
            "a/b",
            "\x1b[31m",
            "x" * 200_000,
        ),
        *(
            "\u202e",
            "image",
            "level",
            "10_left",
            "10_left.jpeg",
            "a\nb",
            "\ufeff",
            "<b>",
        ),
    )
    row[int(rng.integers(len(row)))] = pick(rng, cells)
    _put(file, rows)


def _more_cells(rng: Rng, file: Path) -> None:
    rows = _rows(file)
    pick(rng, rows).append(pick(rng, ("", "1", "x")))
    _put(file, rows)


def _lost_row(rng: Rng, file: Path) -> None:
    rows = _rows(file)
    del rows[int(rng.integers(len(rows)))]
    _put(file, rows)


def _doubled_row(rng: Rng, file: Path) -> None:
    rows = _rows(file)
    _put(file, [*rows, pick(rng, rows)])


def _doubled_header(rng: Rng, file: Path) -> None:
    rows = _rows(file)
    place = int(rng.integers(len(rows[0])))
    more = [[*row, str(n % 5)] for n, row in enumerate(rows)]
    more[0][-1] = rows[0][place]
    _put(file, more)


def _blank_line(rng: Rng, file: Path) -> None:
    rows = _rows(file)
    _put(file, [*rows[:2], [], *rows[2:]])


def _many_columns(rng: Rng, file: Path) -> None:
    _put(file, [row * 5000 for row in _rows(file)])


def _deep(rng: Rng, file: Path) -> None:
    file.write_bytes(pick(rng, (b'"' * 100_001, b"," * 100_000, b"\n" * 100_000)))


def _something_else(rng: Rng, file: Path) -> None:
    file.unlink()
    kind = int(rng.integers(5))
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)
    elif kind == 2:
        file.symlink_to(file.name)
    elif kind == 3:
        file.symlink_to("/dev/zero")


_HARMFUL: tuple[Mutation, ...] = (
    *(_any_bytes, _any_bytes, _other_encoding, _nul, _open_quote, _odd_cell, _odd_cell),
    *(_more_cells, _lost_row, _doubled_row, _doubled_header, _blank_line),
    *(_many_columns, _deep, _something_else),
)


def _judge(root: Path, files: list[Path], layout: str, how: str) -> bool:
    """Whether the set is taken; what is taken must say what the files say."""
    from fastretina.audit import command as audit
    from fastretina.data.labels import read_table
    from fastretina.shard.plan import ShardOptions, plan_shards
    from loaders.errors import LabelError

    what = f"{layout}, {how}"
    with in_time(SECONDS):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = audit.main([str(root), "--no-images"])
        lines = [li for li in err.getvalue().splitlines() if li.startswith("error: ")]
        if code not in (0, 1) or len(lines) != code:
            raise Fault(f"{what}: the audit exits with {code}: {err.getvalue()!r}")
        if len(out.getvalue().splitlines()[-1:]) != (code == 0):
            raise Fault(f"{what}: the audit exits with {code}: {out.getvalue()!r}")
        try:
            table = read_table(root)
        except LabelError as error:
            text = str(error)
            if len(text) > 2000 + len(str(root)):
                raise Fault(f"{what}: {len(text):,} letters: {text[:200]}") from None
            if str(root) not in text and root.name not in text:
                raise Fault(f"{what}: no file is named: {text}") from None
            return False
        options = ShardOptions(samples_per_shard=9, seed=0, steps=(), size=None)
        tasks = plan_shards(table, root / "shards", options)
    if sum(len(task.samples) for task in tasks) != len(table.samples):
        raise Fault(f"{what}: the plan has lost samples")
    said = _said(files, layout)
    for sample in table.samples:
        if (sample.name, str(sample.grade)) not in said:
            raise Fault(f"{what}: {sample.name!r} of grade {sample.grade} is not said")
        if sample.path.resolve().parent != (root / "data").resolve():
            raise Fault(f"{what}: {sample.path} lies elsewhere")
    return True


def _said(files: list[Path], layout: str) -> set[tuple[str, str]]:
    """Names with grades that the files pair in any way of taking them literally."""
    texts = {file.name: file.read_bytes().decode("utf-8-sig") for file in files}
    lines = {name: re.split(r"\r\n|\r|\n", text) for name, text in texts.items()}
    if layout == "course":
        pairs = [
            (image, grade)
            for split in ("train", "test")
            for shift in (-1, 0, 1)  # either of the two may have a header
            for image, grade in zip(
                ["", *lines[f"{split}_img.csv"], ""][1 + min(shift, 0) :],
                ["", *lines[f"{split}_label.csv"], ""][1 - max(shift, 0) :],
                strict=False,
            )
        ]
    else:
        found = [re.split(r"[,;\t]", line) for line in lines["trainLabels.csv"]]
        pairs = [
            (a, b) for cells in found if len(cells) < 100 for a in cells for b in cells
        ]
        for delimiter in ",;\t":  # names that hold one are quoted
            text = io.StringIO(texts["trainLabels.csv"], newline="")
            for cells in csv.reader(text, delimiter=delimiter):
                pairs += [(a, b) for a in cells[:9] for b in cells[:9]]
    return {(_bare(name), _bare(grade)) for name, grade in pairs}


def _bare(cell: str) -> str:
    from loaders.course import strip_suffix

    cell = cell.strip()
    if cell[:1] == '"' == cell[-1:] and len(cell) > 1:
        cell = cell[1:-1].strip()
    return strip_suffix(cell.replace('""', '"'))
