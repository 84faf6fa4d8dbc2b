"""Memory maps of a split's tars, no more of them than there are descriptors for."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import lru_cache
from typing import BinaryIO
from weakref import WeakSet

from loaders.errors import ShardError

# Each map holds a file descriptor, 1,024 is a usual limit, and two splits are open at
# once in training. Half of them stay free for others.
MOST = 256

_in_use: WeakSet[mmap.mmap] = WeakSet()  # all of this process


class TarMaps:
    """Cuts pieces out of tars, which are mapped when they are first needed.

    A map stays until others are needed more, and as long as a piece of it is in use. By
    then there may be no descriptor for another: such pieces are copies.
    """

    def __init__(self, open_tar: Callable[[int], BinaryIO]) -> None:
        """Open nothing yet.

        Args:
            open_tar: opens a tar, whose size it checks, by its number.
        """
        self._open_tar = open_tar
        self._map = lru_cache(maxsize=min(MOST, _most_files() // 4))(self._open_map)

    def cut(self, number: int, start: int, end: int) -> memoryview:
        """The bytes between two places of a tar.

        Raises:
            ShardError: they can't be read.
        """
        try:
            return self._map(number)[start:end]
        except _NoRoom:
            with self._open_tar(number) as file:
                try:
                    file.seek(start)
                    return memoryview(file.read(end - start))
                except OSError as error:
                    raise ShardError(f"{file.name} cannot be read ({error})") from error

    def clear(self) -> None:
        """Let go of the maps; those still in use close with their last piece."""
        self._map.cache_clear()

    def _open_map(self, number: int) -> memoryview:
        if len(_in_use) >= _most_files() // 2:
            raise _NoRoom
        with self._open_tar(number) as file:  # past the end of a map is a SIGBUS
            try:
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # no memory is left; it is empty
                raise _NoRoom from error
        _in_use.add(whole)
        return memoryview(whole)


class _NoRoom(Exception):
    """A tar that can't be mapped."""


def _most_files() -> int:
    """File descriptors that this process may have."""
    try:
        import resource
    except ImportError:  # Windows
        return 4 * MOST
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4 * MOST if most == resource.RLIM_INFINITY else most
