"""A new split on disk: the course's four CSVs, and a link to the photographs.

Of the layouts that are read here it is the only one whose files carry a split. What is
written is a function of the audited set, the share and the seed: no date, and no path
but those of the links.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fastretina.audit.audited_data_set import AuditedDataSet, AuditError, Eye
from fastretina.data.layout_names import SPLIT_NOTE
from loaders.course import COURSE_FILES, IMAGE_WORDS, find_course_csvs, strip_suffix
from loaders.files import make_folder, sync_folder, write_atomically
from loaders.formulas import GUARDED, guarded
from loaders.leftovers import is_partial, partial_name, remove_leftovers
from loaders.shards import SPLITS
from loaders.untrusted import read_json

LINKS = "data"

_MADE_BY = "python -m fastretina.audit --fix"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitNote:
    """What a new split was made of, as ``split.json`` and the JSON line hold it.

    Attributes:
        source_layout: layout of the audited data set.
        seed: seed of the new split.
        test_share: share of the inseparable sets that is in test, as asked for.
        images: split to its number of photographs.
        kept_together: number of sets that can't be parted.
        looked_for_copies: whether copies of a photograph were looked for.
    """

    source_layout: str
    seed: int
    test_share: float
    images: Mapping[str, int]
    kept_together: int
    looked_for_copies: bool


def refuse_to_write(out: Path, data_set: AuditedDataSet) -> None:
    """Let only what is new, empty, or another split of ours be written over.

    Raises:
        AuditError: OUT is something else, or can't be made of this.
    """
    if data_set.layout == "shards":
        raise AuditError(
            f"--fix needs the photographs' folder, and {data_set.data} holds shards: "
            "audit the folder that they were made of, then shard the new split"
        )
    labels = find_course_csvs(data_set.data) if data_set.layout == "course" else None
    if labels is not None and labels.resolve() == out.resolve():
        raise AuditError(
            f"--fix must name another folder than that of the labels, {out}"
        )
    if not out.exists():
        return
    if not out.is_dir():
        raise AuditError(f"--fix must name a folder, got the file {out}")
    ours = {*COURSE_FILES, SPLIT_NOTE, LINKS}
    whole = {path.name for path in out.iterdir() if not is_partial(path)}
    foreign = sorted(whole - ours)
    if not foreign and (_is_ours(out) or not whole):  # but for what a kill has left
        if data_set.paths:
            _refuse_own_files(out / LINKS)
        return
    holds = foreign[0] if foreign else f"no {SPLIT_NOTE}"
    raise AuditError(
        f"{out} is not empty, and not a split that was written by --fix (it holds "
        f"{holds}); name an empty folder"
    )


def write_split(
    out: Path, data_set: AuditedDataSet, eyes: Sequence[Eye], note: SplitNote
) -> None:
    """Write the folder, whose four CSVs are complete only when all else is.

    A split that was there goes only when the links of the new one are made, and nothing
    is in their way.

    Args:
        out: a folder that `refuse_to_write` lets pass.
        data_set: the audited data set, which holds the photographs.
        eyes: all of the data set, each with its new split.
        note: what the split was made of.

    Raises:
        AuditError: a name can't be written into a CSV, or OUT/data is in the way.
        OSError: OUT can't be written.
    """
    columns, some_guarded = {}, False
    for split in SPLITS:
        part = [eye for eye in eyes if eye.split == split]
        if not part:
            raise AuditError(
                f"the {split} split would be empty: more patients, or patients that "
                "share no photograph, are needed"
            )
        names = [_cell(eye.name) for eye in part]
        columns[f"{split}_img.csv"] = list(map(guarded, names))
        some_guarded |= columns[f"{split}_img.csv"] != names
        columns[f"{split}_label.csv"] = [str(eye.grade) for eye in part]
        _refuse_header(part[0].name)
    make_folder(out)
    content = {"made_by": _MADE_BY, **asdict(note)}
    if some_guarded:
        content[GUARDED] = True
    with _links_to_images(out / LINKS, data_set) as put_in_place:
        for name in COURSE_FILES:
            (out / name).unlink(missing_ok=True)
        sync_folder(out)  # or half of them might come back, beside new ones
        write_atomically(out / SPLIT_NOTE, json.dumps(content, indent=2) + "\n")
        put_in_place()
        sync_folder(out)
    for name in COURSE_FILES:
        write_atomically(out / name, _as_csv(columns[name]))


def _is_ours(out: Path) -> bool:
    try:
        note = read_json(out / SPLIT_NOTE)
    except (OSError, ValueError):
        return False
    return isinstance(note, dict) and note.get("made_by") == _MADE_BY


def _cell(name: str) -> str:
    """The cell that is read as this name: readers strip white space and one suffix.

    Raises:
        AuditError: any cell would be read as another name.
    """
    try:
        name.encode()
        kept = name == name.strip() != ""
    except UnicodeEncodeError:
        kept = False
    if not kept:
        raise AuditError(
            f"image {name!r} can't be listed in a CSV: its name must be UTF-8, without "
            "spaces around it; rename it"
        )
    return name if strip_suffix(name) == name else f"{name}.jpeg"


def _refuse_header(name: str) -> None:
    if name.casefold() in IMAGE_WORDS:
        raise AuditError(
            f"image {name!r} can't stand first in a CSV, where it is read as a header; "
            "rename it"
        )


def _as_csv(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell] for cell in cells)
    return text.getvalue()


@contextmanager
def _links_to_images(
    links: Path, data_set: AuditedDataSet
) -> Iterator[Callable[[], None]]:
    """Make the links under another name; gives what puts them in the old ones' place.

    Raises:
        AuditError: OUT/data holds files of its own.
        OSError: a link can't be made.
    """
    if not data_set.paths:
        yield lambda: None
        return
    _refuse_own_files(links)
    remove_leftovers(links.parent, links.name)
    made = partial_name(links)
    try:
        _link_images(made, data_set)

        def put_in_place() -> None:
            _clear(links)
            made.rename(links)

        yield put_in_place
    finally:
        _clear(made)


def _link_images(links: Path, data_set: AuditedDataSet) -> None:
    """Make a link to the photographs' folder, or a folder of links to them."""
    if len(data_set.folders) == 1:
        links.symlink_to(_relative(data_set.folders[0], links.parent), True)
        return
    links.mkdir()
    for place, path in sorted(data_set.paths.items()):
        target = _relative(path.parent, links) / path.name
        (links / f"{data_set.eyes[place].name}{path.suffix}").symlink_to(target)


def _refuse_own_files(links: Path) -> None:
    """Let only links be in the way of new ones.

    Raises:
        AuditError: OUT/data is a file, or holds what is no link.
    """
    if links.is_symlink() or not links.exists():
        return
    if not links.is_dir():
        raise AuditError(f"{links} is a file, where a link is to be; move it away")
    own = sorted(path.name for path in links.iterdir() if not path.is_symlink())
    if own:
        raise AuditError(
            f"{links} holds files that are no links: {own[0]}; move them away"
        )


def _clear(links: Path) -> None:
    """Remove a link, or a folder of links alone."""
    if links.is_symlink():
        links.unlink()
    elif links.is_dir():
        for path in links.iterdir():
            path.unlink()
        links.rmdir()


def _relative(folder: Path, start: Path) -> Path:
    """The path from ``start`` to a folder; both may be reached through links."""
    return Path(os.path.relpath(folder.resolve(), start.resolve()))
