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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastretina.audit.dataset import AuditedDataset, AuditError, Eye
from loaders.course import COURSE_FILES, IMAGE_WORDS, find_course_csvs, strip_suffix
from loaders.files import is_partial, write_atomically
from loaders.shards import SPLITS

NOTE = "split.json"  # tells a folder of ours from any other
LINKS = "data"

_MADE_BY = "python -m fastretina.audit --fix"


def refuse_to_write(out: Path, subject: AuditedDataset) -> None:
    """Let only what is new, empty, or another split of ours be written over.

    Raises:
        AuditError: OUT is something else, or can't be made of this.
    """
    if subject.layout == "shards":
        raise AuditError(
            f"--fix needs the photographs' folder, and {subject.data} holds shards: "
            "audit the folder that they were made of, then shard the new split"
        )
    labels = find_course_csvs(subject.data) if subject.layout == "course" else None
    if labels is not None and labels.resolve() == out.resolve():
        raise AuditError(
            f"--fix must name another folder than that of the labels, {out}"
        )
    if not out.exists():
        return
    if not out.is_dir():
        raise AuditError(f"--fix must name a folder, got the file {out}")
    ours = {*COURSE_FILES, NOTE, LINKS}
    foreign = sorted(
        path.name
        for path in out.iterdir()
        if path.name not in ours and not is_partial(path)
    )
    if not foreign and (_is_ours(out) or not any(out.iterdir())):
        return
    holds = foreign[0] if foreign else f"no {NOTE}"
    raise AuditError(
        f"{out} is not empty, and not a split that was written by --fix (it holds "
        f"{holds}); name an empty folder"
    )


def write_split(
    out: Path, subject: AuditedDataset, eyes: Sequence[Eye], about: Mapping[str, Any]
) -> None:
    """Write the folder, whose four CSVs are complete only when all else is.

    Args:
        out: that `refuse_to_write` lets pass.
        subject: where the photographs are.
        eyes: of it, with the new split.
        about: what the split was made of, as JSON.

    Raises:
        AuditError: a name can't be written into a CSV, or OUT/data is in the way.
        OSError: OUT can't be written.
    """
    columns = {}
    for split in SPLITS:
        part = [eye for eye in eyes if eye.split == split]
        if not part:
            raise AuditError(
                f"the {split} split would be empty: more patients, or patients that "
                "share no photograph, are needed"
            )
        columns[f"{split}_img.csv"] = [_cell(eye.name) for eye in part]
        columns[f"{split}_label.csv"] = [str(eye.grade) for eye in part]
        _refuse_header(part[0].name)
    out.mkdir(parents=True, exist_ok=True)
    for name in COURSE_FILES:
        (out / name).unlink(missing_ok=True)
    note = {"made_by": _MADE_BY, **about}
    write_atomically(out / NOTE, json.dumps(note, indent=2) + "\n")
    if subject.paths:
        _link_images(out / LINKS, subject)
    for name in COURSE_FILES:
        write_atomically(out / name, _as_csv(columns[name]))


def _is_ours(out: Path) -> bool:
    try:
        note = json.loads((out / NOTE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(note, dict) and note.get("made_by") == _MADE_BY


def _cell(name: str) -> str:
    """A name as it is read again: without white space around, and less one suffix.

    Raises:
        AuditError: it would be read as another one.
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


def _link_images(links: Path, subject: AuditedDataset) -> None:
    """Make OUT/data a link to the photographs' folder, or a folder of links to them.

    Raises:
        AuditError: OUT/data holds files of its own.
    """
    _clear(links)
    if len(subject.folders) == 1:
        links.symlink_to(_relative(subject.folders[0], links.parent), True)
        return
    links.mkdir()
    for place, path in sorted(subject.paths.items()):
        target = _relative(path.parent, links) / path.name
        (links / f"{subject.eyes[place].name}{path.suffix}").symlink_to(target)


def _clear(links: Path) -> None:
    if links.is_symlink():
        links.unlink()
    elif links.is_dir():
        inside = list(links.iterdir())
        for path in inside:
            if not path.is_symlink():
                raise AuditError(f"{links} holds files that are no links: {path.name}")
        for path in inside:
            path.unlink()
        links.rmdir()


def _relative(folder: Path, start: Path) -> Path:
    """From one folder to another, where both may be reached through links."""
    return Path(os.path.relpath(folder.resolve(), start.resolve()))
