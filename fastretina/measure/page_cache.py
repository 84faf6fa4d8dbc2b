"""Whether files lie in the system's page cache, and how to get them out of it.

This works on Linux only; elsewhere ``drop`` returns False, ``cached_share`` None.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import numpy as np


def drop(paths: Iterable[Path]) -> bool:
    """Ask the system to forget files; returns whether it did so.

    A file that a process has mapped stays where it is touched, and so does one on a
    file system that lives in memory.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    paths = list(paths)
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # what is not yet written can't be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
    share = cached_share(paths)
    return share is not None and share < 0.05


def cached_share(paths: Iterable[Path]) -> float | None:
    """The share of files' pages that can be read without the disk, 0 to 1.

    None where the system can't tell. Looking brings nothing in, as ``preadv`` with
    ``RWF_NOWAIT`` does.
    """
    mincore = _mincore()
    if mincore is None:
        return None
    resident = pages = 0
    for path in paths:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                flags = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
                bytes_ = np.frombuffer(mapped, np.uint8)
                failed = mincore(bytes_.ctypes.data, len(mapped), flags.ctypes.data)
                del bytes_  # or the map can't be closed
        if failed:
            return None
        resident += int((flags & 1).sum())
        pages += len(flags)
    return resident / pages if pages else None


def _mincore() -> Callable[[int, int, int], int] | None:
    """``mincore`` of the C library; None where there is none."""
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).mincore
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return cast("Callable[[int, int, int], int]", function)
