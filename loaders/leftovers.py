"""What a killed process has left half-done: found by its name, and removed.

    OUT/.report.html.fastretina-4711-0f3a9c12.part  a file that process 4711 was writing
    TMP/.temporary.fastretina-4711-5d01e7b4.part/   a temporary folder of its own

Nobody gives a file such a name by chance, and nobody can foresee its last eight digits,
to have a link lie there. A process number says little: containers that share a disk
each count from 1, and numbers come again. So whoever writes keeps a lock (``flock``),
which ends with the process, however it ends; what can be locked is nobody's any more.
Who has just made a file and not yet locked it may lose it, finds that, and makes
another.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import gettempdir
from typing import BinaryIO

_ENDING = r"\.fastretina-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}\.part"
_PARTIAL = re.compile(rf"\.(?P<name>.+){_ENDING}", re.DOTALL)
_TEMPORARY = "temporary"
_LONGEST = 200  # bytes of a file's name
_GRACE = 60  # seconds in which a living process is given what it has not locked
_ATTEMPTS = 9  # to lock what was made; a file system may say that others lock it all


def partial_name(path: Path) -> Path:
    """A new temporary name beside ``path``: no file's, and another at each call.

    Of a long name only the first 200 bytes are in it, as 255 is what most disks allow.
    """
    number = os.urandom(4).hex()
    return path.with_name(f".{_cut(path.name)}.fastretina-{os.getpid()}-{number}.part")


def _cut(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST])


def final_name(path: Path) -> str | None:
    """What a file of a temporary name was to be called, if that is not too long.

    None of any other name.
    """
    found = _PARTIAL.fullmatch(path.name)
    return found["name"] if found else None


def is_partial(path: Path) -> bool:
    """Whether a file has a temporary name: what a killed process has left behind."""
    return final_name(path) is not None


def create_partial(path: Path, held: ExitStack) -> tuple[Path, BinaryIO]:
    """Make a file under a temporary name, to be written, locked until the stack ends.

    What lies there already, a link too, is an error and is not written to.

    Args:
        path: its final name.
        held: at its end removes the file, unless it has got its name, and lets go.

    Returns:
        The temporary name, and the file, open.

    Raises:
        OSError: it can't be made; the error names ``path``.
    """
    for attempt in count(1):
        part = partial_name(path)
        held.callback(part.unlink, missing_ok=True)  # first: an interrupt may come
        try:
            file = part.open("xb")
        except OSError as error:  # of the part, which nobody knows of
            reason = error.strerror or str(error)
            raise OSError(error.errno, reason, str(path)) from error
        if _keep(part, held) or attempt == _ATTEMPTS:
            return part, file
        file.close()
    raise AssertionError("it ends with the last attempt")


def _keep(path: Path, held: ExitStack) -> bool:
    """Lock what was just made; False where another took it for a leftover first."""
    try:
        descriptor = _lock(path)
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # no such locks
        return True
    held.callback(os.close, descriptor)
    return os.path.lexists(path)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what dead processes were writing in a folder; nothing of a living one.

    Args:
        folder: where to look; one that is not there holds nothing.
        name: the final name of what they were writing; None for any.
    """
    for each, parts in _partials(folder).items():
        if name is None or _cut(name) == each:
            _remove_all(parts)


def remove_leftovers_of(path: Path) -> None:
    """The same of one file that is to be written, at no cost for the folder's others.

    Each folder is looked through once in a process.
    """
    parts = _partials_once(path.parent.absolute()).pop(_cut(path.name), [])
    _remove_all(parts)


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
    with ExitStack() as held:
        yield _make_temporary(held)


def _make_temporary(held: ExitStack) -> Path:
    for attempt in count(1):
        path = partial_name(Path(gettempdir(), _TEMPORARY))
        path.mkdir(0o700)
        held.callback(shutil.rmtree, path, ignore_errors=True)
        if _keep(path, held) or attempt == _ATTEMPTS:
            return path
    raise AssertionError("it ends with the last attempt")


@cache  # once in a process
def _remove_temporary() -> None:
    remove_leftovers(Path(gettempdir()), _TEMPORARY)


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


def _lock(path: Path) -> int:
    """A descriptor that holds the lock.

    Raises:
        BlockingIOError: another holds it.
        OSError: none can be had.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError("this system has no such locks") from None
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
