"""What a killed process has left half-done: found by its name, and removed.

    OUT/.report.html.4711.part      a file that process 4711 was writing
    TMP/fastretina-4711-x7k2/       a temporary folder of process 4711

A process number says little: containers that share a disk each count from 1, and
numbers come again. So whoever writes keeps a lock (``flock``), which ends with the
process, however it ends; what can be locked is nobody's any more.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp

_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]{1,10})\.part", re.DOTALL)
_TEMPORARY = re.compile(r"fastretina-(?P<pid>[0-9]{1,10})-[a-z0-9_]+")
_GRACE = 60  # seconds in which a living process has locked what it has made


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what dead processes were writing in a folder; nothing of a living one.

    Args:
        folder: where to look; one that is not there holds nothing.
        name: the final name of what they were writing; None for any.
    """
    for each, parts in _partials(folder).items():
        if name in (None, each):
            _remove_all(parts)


def remove_leftovers_of(path: Path) -> None:
    """The same of one file that is to be written, at no cost for the folder's others.

    Each folder is looked through once in a process.
    """
    _remove_all(_partials_once(path.parent.absolute()).pop(path.name, []))


def _partials(folder: Path) -> dict[str, list[tuple[Path, int]]]:
    """Final name to temporary names and who gave them, of all in a folder."""
    found: dict[str, list[tuple[Path, int]]] = {}
    with suppress(OSError):
        for path in folder.iterdir():
            if match := _PARTIAL.fullmatch(path.name):
                found.setdefault(match["name"], []).append((path, int(match["pid"])))
    return found


_partials_once = cache(_partials)


def _remove_all(parts: list[tuple[Path, int]]) -> None:
    for path, pid in parts:
        with suppress(OSError):  # another process was faster, or it isn't ours
            _remove(path, pid)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files, removed at the end, or by the next that is made.

    Raises:
        OSError: none can be made.
    """
    _remove_temporary()
    path = Path(mkdtemp(prefix=f"fastretina-{os.getpid()}-"))
    lock = _lock(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@cache  # once in a process
def _remove_temporary() -> None:
    with suppress(OSError):
        for path in list(Path(gettempdir()).iterdir()):
            if found := _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    _remove(path, int(found["pid"]))


def _remove(path: Path, pid: int) -> None:
    """Remove a file, a link or a folder, unless a living process may hold it."""
    about = path.lstat()
    if hasattr(os, "getuid") and about.st_uid != os.getuid():
        return
    alive = _lives(pid)
    if stat.S_ISLNK(about.st_mode):
        if not alive:
            path.unlink()
        return
    if alive and abs(time.time() - about.st_mtime) < _GRACE:
        return
    lock = _lock(path)
    if lock is None:
        return
    try:
        if stat.S_ISDIR(about.st_mode):
            shutil.rmtree(path)
        elif stat.S_ISREG(about.st_mode):
            path.unlink()
    finally:
        os.close(lock)


def _lives(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock; None where another does, or none can be had."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
    return None
