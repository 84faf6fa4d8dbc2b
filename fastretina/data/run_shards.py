"""Where the shards of a run are: what it records of them, and how they are found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastretina.run import Run
from loaders.errors import RunError, ShardError
from loaders.place import is_url
from loaders.shards import MANIFEST, read_manifest

_ENDS = 3  # folders at the end of a path that are looked for beside a run that moved


def recorded_place(shards: str) -> str:
    """What a run keeps of ``--shards``: an absolute path, or the URL as it is."""
    return shards if is_url(shards) else os.path.abspath(shards)


def shards_of_run(run: Run, split: str, flag: str = "--shards") -> str:
    """Folder or URL of the data set that a run takes a split from.

    A folder that is gone is looked for beside the run, and above it: both may have
    moved. What is found there must have the fingerprint that the run has recorded.

    Args:
        run: its folder.
        split: ``train`` or ``test``.
        flag: what the user may name them with, for the error.

    Raises:
        RunError: there is no run, or its shards are nowhere; the error names the flag.
    """
    config = run.config()
    recorded = config.shards_of(split)
    if is_url(recorded):
        return recorded
    apart = split == "test" and config.test_shards is not None
    wanted = config.data.test_fingerprint if apart else config.data.fingerprint
    there = (Path(recorded) / MANIFEST).exists()
    if there and wanted in (None, _fingerprint(Path(recorded))):
        return _shortened(recorded)
    for folder in _moved(run.path, Path(recorded)):
        if wanted is not None and _fingerprint(folder) == wanted:
            return _shortened(str(folder))
    if there:
        return _shortened(recorded)
    used = "tested" if split == "test" else "trained"
    raise RunError(
        f"the shards that {run.path} was {used} on are no longer in {recorded}: "
        f"pass {flag} and the folder that they are in now"
    )


def _moved(run: Path, recorded: Path) -> Iterator[Path]:
    """Folders of the same name, nearest to the run first."""
    for above in run.resolve().parents:
        for number in range(min(_ENDS, len(recorded.parts)), 0, -1):
            yield above.joinpath(*recorded.parts[-number:])


def _fingerprint(folder: Path) -> str | None:
    try:
        return read_manifest(folder).fingerprint
    except ShardError:
        return None


def _shortened(folder: str) -> str:
    """A path as one would type it here: relative, where that leads downward."""
    relative = os.path.relpath(folder)
    return folder if relative.startswith(os.pardir) else relative
