"""Which files in SHARDS are of the data set; whatever else lies there is the user's."""

from __future__ import annotations

import re
from pathlib import Path

from fastretina.data.left_out import first_names
from fastretina.shard.plan import PROGRESS
from loaders.errors import ShardError
from loaders.leftovers import final_name, is_partial
from loaders.manifest import MANIFEST, SPLITS, Manifest

_SPLIT = "|".join(SPLITS)
_SHARD = re.compile(rf"(?:{_SPLIT})-\d{{6,}}\.(?:tar|idx)")
_DATA = re.compile(rf"{_SHARD.pattern}|(?:{_SPLIT})\.parquet")


def data_files(folder: Path) -> list[Path]:
    """Shards and indices, in the order of their names; not the manifest."""
    return [path for path in sorted(folder.iterdir()) if _DATA.fullmatch(path.name)]


def files_of(manifest: Manifest) -> set[str]:
    """Names of the shards and indices of a data set."""
    shards = [Path(shard.name) for one in manifest.splits.values() for shard in one]
    tables = {f"{split}.parquet" for split in manifest.splits}
    return (
        tables | {str(p) for p in shards} | {str(p.with_suffix(".idx")) for p in shards}
    )


def others_files(folder: Path) -> list[Path]:
    """What is not of the data set, and not of one that is being written."""
    return [
        path
        for path in folder.iterdir()
        if path.name not in (MANIFEST, PROGRESS)
        and not _DATA.fullmatch(path.name)
        and not _is_partial(path)
    ]


def remove_partial(folder: Path) -> None:
    """Remove files without a final name, which a process that has ended was writing."""
    partial = [path for path in folder.iterdir() if _is_partial(path)]
    markers = (path for path in (folder / PROGRESS).glob(".*") if is_partial(path))
    for path in [*partial, *markers]:
        path.unlink()


def _is_partial(path: Path) -> bool:
    name = final_name(path)
    return name is not None and (name == MANIFEST or bool(_DATA.fullmatch(name)))


def refuse_other_folder(folder: Path) -> None:
    """Let shards be written only to what is new, empty, or a folder of shards.

    A run has a ``test.parquet``, too, so an index without shards is somebody else's.

    Raises:
        ShardError: it is a file, or holds nothing but files of other kinds.
    """
    if folder.exists() and not folder.is_dir():
        raise ShardError(f"SHARDS must be a folder, got the file {folder}")
    if not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir())
    if PROGRESS in names or MANIFEST in names or any(map(_SHARD.fullmatch, names)):
        return
    if others := [name for name in names if not name.startswith(".")]:
        raise ShardError(
            f"{folder} holds other files ({first_names(others, 3)}): name a new or an "
            "empty folder for the shards"
        )
