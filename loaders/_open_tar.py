"""A tar that is kept open and read at any place, by any number of threads."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

_USUALLY_OPEN = 128
_WITHOUT_PREAD = threading.Lock()  # on Windows a place is a file's, not a call's


class OpenTar:
    """An open file of its own descriptor, which closes with its last user.

    Reading 50 KB that the system has in memory takes 6 us, which a map takes, too, at
    the first use of its pages.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Keep it open for as long as this lives, whatever becomes of ``file``."""
        self._descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # there were descriptors left
            os.close(self._descriptor)

    def read(self, start: int, size: int) -> bytes:
        """The bytes from a place on; fewer where the file ends before.

        Raises:
            OSError: it can't be read.
        """
        content = _read_at(self._descriptor, size, start)
        while len(content) < size:  # a file system may give a part of it
            more = _read_at(self._descriptor, size - len(content), start + len(content))
            if not more:
                break
            content += more
        return content


def _read_with_lock(descriptor: int, size: int, start: int) -> bytes:
    with _WITHOUT_PREAD:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, size)


_read_at = getattr(os, "pread", _read_with_lock)


def most_files() -> int:
    """File descriptors that this process may have."""
    try:
        import resource
    except ImportError:  # Windows, where the C library has 512 at least
        return 512
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if most == resource.RLIM_INFINITY else most


def allow_files(number: int) -> bool:
    """Let this process open so many more files; False where the system refuses."""
    try:
        import resource
    except ImportError:  # Windows
        return number < most_files()
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux
        used = _USUALLY_OPEN
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if used + number <= most_files():
        return True
    if hard != resource.RLIM_INFINITY and used + number > hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + number, hard))
    return True
