"""A data set put in the place of another: there is the old or the new, at any moment.

    SHARDS/.progress/replacement    the new one, written as any other, until it is whole
              |  move
    .SHARDS.replaced.part           beside SHARDS
              |  exchange           one system call: from here on SHARDS is the new one
    .SHARDS.replaced.part           the old one: the user's files go back, the rest goes

Where a folder can't be exchanged, as it is a mount point, a network's, or where one
works, the files are moved one by one. No manifest is there for as long as that takes;
whatever ends it, nothing has to be written anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from fastretina.shard.own_files import data_files, files_of, others_files
from fastretina.shard.plan import PROGRESS
from loaders.errors import ShardError
from loaders.files import naming, sync_folder
from loaders.manifest import MANIFEST, read_manifest

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h


def replacement_of(folder: Path) -> Path:
    """Where the data set is written that is to replace a folder's."""
    return folder / PROGRESS / "replacement"


def aside_of(folder: Path) -> Path:
    """Beside the folder: the new set before the exchange, the old one after it."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.replaced.part")


def put_in_place(folder: Path) -> None:
    """Put the whole replacement in the place of a folder's data set.

    Raises:
        OSError: a file can't be moved; the same call goes on.
    """
    if not _exchange(folder):
        _move_one_by_one(folder)


def go_on(folder: Path) -> bool:
    """Go on with what a process has begun that has ended within ``put_in_place``.

    Returns:
        Whether a new data set is in its place by that.

    Raises:
        ShardError: another process is at it, or a file of the user's lies in both.
        OSError: a file can't be moved.
    """
    aside, replacement = aside_of(folder), replacement_of(folder)
    if (aside / PROGRESS).is_dir():  # the old one
        try:
            with FileLock(aside / PROGRESS / "lock", timeout=0):
                _take_leave(aside, folder.resolve())
                return True
        except Timeout:
            raise ShardError(
                f"another process is writing to {folder}; wait for it to end"
            ) from None
    elif aside.is_dir():  # the new one, which had not been exchanged
        if replacement.is_dir():
            shutil.rmtree(replacement)
        aside.rename(replacement)
    if (replacement / MANIFEST).exists() and not (folder / MANIFEST).exists():
        _move_one_by_one(folder)
        return True
    return False


def _exchange(folder: Path) -> bool:
    """Exchange a folder and its replacement; False where that can't be done."""
    folder, aside = folder.resolve(), aside_of(folder)
    here = Path.cwd()
    if folder in (here, *here.parents):  # which would be no more
        return False
    replacement = replacement_of(folder)
    try:
        _make_alike(replacement, folder)
        replacement.rename(aside)
    except OSError:
        return False
    try:
        for each in (aside, replacement.parent, folder.parent):
            sync_folder(each)
        exchange_names(aside, folder)
    except OSError:
        aside.rename(replacement)
        return False
    sync_folder(folder.parent)
    _take_leave(aside, folder)
    return True


def _make_alike(folder: Path, other: Path) -> None:
    """Give a folder another one's mode, and its owner where that may be given."""
    shutil.copystat(other, folder)
    owner = other.stat()
    with contextlib.suppress(PermissionError, AttributeError):
        os.chown(folder, owner.st_uid, owner.st_gid)


def exchange_names(one: Path, other: Path) -> None:
    """Exchange two names of one file system, at once.

    Raises:
        OSError: the system or the file system can't, or one is a mount point.
    """
    library = ctypes.CDLL(None, use_errno=True)
    try:
        call = library.renameat2
    except AttributeError:
        raise OSError("this system can't exchange two names") from None
    names = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def _take_leave(old: Path, new: Path) -> None:
    """Move the user's files from the old data set to the new one; remove the old."""
    others = others_files(old)
    for path in others:
        if (new / path.name).exists():
            raise ShardError(f"{path} would replace {new / path.name}: move it away")
    for path in others:
        path.rename(new / path.name)
    if others:
        sync_folder(new)
    (old / MANIFEST).unlink(missing_ok=True)
    for path in data_files(old):
        path.unlink()
    shutil.rmtree(old)  # and the folder that tells it from a new one


def _move_one_by_one(folder: Path) -> None:
    """Move the replacement's files into the folder, the manifest last."""
    replacement, manifest = replacement_of(folder), folder / MANIFEST
    if manifest.exists():
        manifest.unlink()  # first: from here on, no data set
        sync_folder(folder)
    new = files_of(read_manifest(replacement))
    for path in data_files(folder):
        if path.name not in new:
            path.unlink()
    for path in data_files(replacement):  # those that were not moved before
        path.rename(folder / path.name)
    sync_folder(folder)
    with naming(manifest):
        (replacement / MANIFEST).rename(manifest)
    sync_folder(folder)
    shutil.rmtree(replacement)
