"""What is in a place that was named by mistake, for the error that says so."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Literal

from loaders.untrusted import is_file, is_folder

PHOTOGRAPHS = frozenset({".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".bmp"})
_MANIFEST, _CONFIG, _EXPERIMENT = "manifest.json", "config.json", "experiment.json"
_MOST = 1000  # names that are looked at in each folder

Kind = Literal[
    "nothing",
    "shards",
    "run",
    "runs",
    "experiment",
    "photographs",
    "photograph",
    "part of shards",
    "part of a run",
    "file",
    "other",
]

_ARTICLES = {"run": "a ", "runs": "several ", "experiment": "an "}


def look_into(path: Path) -> Kind:
    """What a path holds, by the names of its files; nothing is opened.

    Returns:
        ``nothing`` where the path does not exist; ``photographs`` of a folder that has
        some, or whose folders do; ``other`` of any other folder.
    """
    try:
        if path.is_dir():
            return _look_into_folder(path)
        if not path.exists():
            return "nothing"
    except OSError:  # e.g. a name that is too long, or no permission
        return "other"
    if (path.parent / _MANIFEST).is_file():
        return "part of shards"
    if (path.parent / _CONFIG).is_file():
        return "part of a run"
    return "photograph" if _is_photograph(path.name) else "file"


def _look_into_folder(folder: Path) -> Kind:
    names: list[tuple[str, Kind]] = [
        (_MANIFEST, "shards"),
        (_CONFIG, "run"),
        (_EXPERIMENT, "experiment"),
    ]
    for name, kind in names:
        if (folder / name).is_file():
            return kind
    files, folders = _listed(folder)
    if any(map(_is_photograph, files)):
        return "photographs"
    if any((folder / name / _CONFIG).is_file() for name in folders):
        return "runs"
    for name in folders:
        if any(map(_is_photograph, _listed(folder / name)[0])):
            return "photographs"
    return "other"


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the first files and folders in a folder."""
    with os.scandir(folder) as entries:
        first = list(islice(entries, _MOST))
    files = [entry.name for entry in first if is_file(entry)]
    return files, [entry.name for entry in first if is_folder(entry)]


def _is_photograph(name: str) -> bool:
    return Path(name).suffix.lower() in PHOTOGRAPHS


def describe_mistake(path: Path) -> str:
    """What a path holds or is: the end of a sentence, e.g. ``holds photographs``."""
    kind = look_into(path)
    if kind == "nothing":
        return "does not exist"
    if kind.startswith("part of"):
        return f"is a file of {kind.removeprefix('part of ')}"
    if kind in ("photograph", "file"):
        return f"is a {kind}"
    if kind == "other":
        return "holds something else"
    return f"holds {_ARTICLES.get(kind, '')}{kind}"
