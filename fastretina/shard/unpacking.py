"""The folder that images are unpacked to from tars, until their shards are written.

SHARDS/.unpacked.part/lock       held by the process that unpacks
SHARDS/.unpacked.part/images/    of a killed process, the next one removes it
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fastretina.shard.own_files import refuse_other_folder
from loaders.errors import ShardError
from loaders.files import refuse_link

if TYPE_CHECKING:
    from typing_extensions import Self

_NAME = ".unpacked.part"


class UnpackFolder:
    """A folder inside SHARDS, and so on its disk; use it in a ``with``.

    Entering removes what a killed process has left, leaving what this one has made:
    SHARDS, too, if it is empty and was not there before.
    """

    def __init__(self, shards: Path) -> None:
        self._shards = shards
        self._folder = shards / _NAME
        self._lock = FileLock(self._folder / "lock", timeout=0)
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        refuse_link(self._folder)
        if self._folder.is_dir():
            try:
                self._lock.acquire()
            except Timeout:  # it is in use; whether that is in the way shows later
                return self
            self._remove()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._lock.is_locked:
            return
        self._remove()
        with contextlib.suppress(OSError):  # something is in it, as there should be
            for folder in self._made:
                folder.rmdir()

    def make(self) -> Path:
        """Make the folder; returns where to unpack to.

        Raises:
            ShardError: SHARDS holds other files, or another process unpacks there.
            OSError: it can't be made.
        """
        refuse_other_folder(self._shards)
        around = (self._shards, *self._shards.parents)
        self._made = [folder for folder in around if not folder.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise ShardError(
                f"another process is writing to {self._shards}; wait for it to end"
            ) from None
        images = self._folder / "images"
        images.mkdir()
        return images

    def _remove(self) -> None:
        shutil.rmtree(self._folder)
        self._lock.release()
