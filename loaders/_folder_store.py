"""Decoded images in a folder that processes and runs share, each with its checksum.

    DIR/train-512x512-0f3a.../about.json    what the pixels depend on
                             /index         N checksums, then N slots
                             /images        slot after slot, as many as have room

Only slots are given out under a lock. Images need none: whoever decodes a row writes
the same pixels to its slot, and after them their checksum, which is what makes them
count. So a process may end anywhere: without its checksum an image isn't there, and one
that isn't what its checksum says is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from crc32c import crc32c
from filelock import FileLock

from loaders._room import disk_room
from loaders._stores import HostStore, image_bytes
from loaders.arrays import Bool, Int64, UInt8
from loaders.base import Decoding, KeptImages, Source
from loaders.errors import DataError, LoaderError
from loaders.order import UInt64
from loaders.schedule import Schedule
from loaders.shards import ShardSplit

_FORMAT = 1
_REST = re.compile(r"\..+-\d+x\d+-[0-9a-f]{16}\.(?:new|old)\.part")
_CHECKSUM, _SLOT = np.dtype(np.uint64), np.dtype(np.uint32)

AnyArray = npt.NDArray[np.generic]
UInt32 = npt.NDArray[np.uint32]


class FolderStore(HostStore):
    """Images in one file; those of earlier runs are checked at first use.

    The folder's images together take at most what has room on its disk, or what was
    asked for. Their memory is the page cache's, which the system takes back at need.
    Nothing is mapped: where a mapped file is cut short or its disk fails, the system
    ends the process (SIGBUS). Reading costs 9 us more an image of 512 pixels, of 37.
    """

    def __init__(self, schedule: Schedule, decoding: Decoding, source: Source) -> None:
        """Make or find the folder's part for these pixels, and room for the images.

        Args:
            schedule: the loader's, with the folder in its config.
            decoding: who makes the pixels.
            source: where the JPEGs come from.

        Raises:
            LoaderError: the folder can't be used.
        """
        assert schedule.config.cache is not None
        self._folder = Path(schedule.config.cache)
        about = describe_pixels(schedule, decoding, source)
        self._about = json.dumps(about, indent=1, sort_keys=True)
        height, width = schedule.shape
        key = hashlib.sha256(self._about.encode()).hexdigest()[:16]
        self._part = self._folder / f"{about['split']}-{width}x{height}-{key}"
        self._shape, self._bytes = (height, width, 3), image_bytes(schedule)
        self._rows, self._samples = schedule.source.rows, len(source.labels)
        self._gb = schedule.config.cache_gb
        self._checked = np.zeros(self._samples, np.bool_)  # in this process
        self._spoilt = np.zeros(self._samples, np.bool_)
        self._failed = False  # to write
        self._file: int | None = None  # of the images; None while nothing is open
        self._index: int | None = None
        self._checksums: UInt64 = np.empty(0, np.uint64)
        self._given: UInt32 = np.empty(0, np.uint32)
        self._slots = self._given  # as they were when they were found sound
        with self._naming_folder():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open()
        images = int(np.count_nonzero(self._slots[self._rows]))
        place = str(self._folder)
        self.kept = KeptImages(place, images, len(self._rows), self._bytes)

    def begin(self) -> Bool:
        """Look again for what others have kept; see ``ImageStore.begin``."""
        with self._naming_folder():
            if self._file is None:
                self._open()
            else:
                self._read_index()
        new = (self._slots == 0) & (self._given <= self._samples)  # by others, too
        self._slots[new] = self._given[new]
        here: Bool = (self._slots != 0) & (self._checksums != 0) & ~self._spoilt
        return here

    def wants(self, rows: Int64) -> Bool:
        """See ``ImageStore.wants``; nothing, once a write has failed."""
        lacks = (self._checksums[rows] == 0) | self._spoilt[rows]
        wanted: Bool = (self._slots[rows] != 0) & lacks & (not self._failed)
        return wanted

    def images(self, rows: Int64) -> Iterator[UInt8 | None]:
        """See ``HostStore.images``: each is compared with its checksum once."""
        image = np.empty(self._shape, np.uint8)
        for row in rows.tolist():
            whole = self._read(row, image)
            if whole and not self._checked[row]:
                whole = checksum(image, row) == self._checksums[row]
                self._checked[row] = whole
            self._spoilt[row] |= not whole
            yield image if whole else None

    def _read(self, row: int, image: UInt8) -> bool:
        """Read an image; False where the file ends before it does, or can't be read."""
        assert self._file is not None
        place = (int(self._slots[row]) - 1) * self._bytes
        try:
            if read_at(self._file, image, place):
                return True
        except OSError as error:  # of the disk
            self._give_up(error)
            return False
        self._checked[:] = False  # zeros come where it is written behind its end
        return False

    def keep(self, row: int, image: UInt8) -> None:
        """See ``HostStore.keep``: pixels first, then the checksum."""
        file = self._file
        assert file is not None
        image = np.ascontiguousarray(image)
        try:
            if self._checksums[row]:
                self._write_checksum(row, 0)  # of what was spoilt
            write_at(file, image, (int(self._slots[row]) - 1) * self._bytes)
            self._write_checksum(row, checksum(image, row))
        except OSError as error:  # such as a full disk
            self._give_up(error)
            return
        self._checked[row], self._spoilt[row] = True, False

    def _write_checksum(self, row: int, value: int) -> None:
        assert self._index is not None
        self._checksums[row] = value
        place = row * _CHECKSUM.itemsize
        write_at(self._index, self._checksums[row : row + 1], place)

    def _give_up(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            warnings.warn(
                f"no more decoded images are kept in {self._folder} "
                f"({error.strerror or error}): what is missing is decoded each time",
                RuntimeWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """Let go of the files; the images stay in the folder."""
        for file in (self._file, self._index):
            if file is not None:
                os.close(file)
        self._file = self._index = None

    @contextmanager
    def _naming_folder(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LoaderError(
                f"the folder for decoded images, {self._folder}, can't be used "
                f"({error.strerror or error}): pass another --cache"
            ) from error

    # ---------------------------------------------------------------- under the lock

    def _open(self) -> None:
        """Read the index, give slots to rows without one, open the images."""
        with FileLock(self._folder / ".lock"):
            self._remove_rest()
            if not self._is_sound():
                self._make_part()
            self._index = os.open(self._part / "index", os.O_RDWR | os.O_NOFOLLOW)
            self._read_index()
            self._give_slots()
            self._slots = self._given.copy()
            self._file = os.open(self._part / "images", os.O_RDWR | os.O_NOFOLLOW)
        self._checked[:], self._spoilt[:] = False, False

    def _read_index(self) -> None:
        """Read all checksums and slots; zeros where the file has been cut short."""
        assert self._index is not None
        end = self._samples * _CHECKSUM.itemsize
        index = np.zeros(end + self._samples * _SLOT.itemsize, np.uint8)
        read_at(self._index, index, 0)
        self._checksums, self._given = (
            index[:end].view(_CHECKSUM),
            index[end:].view(_SLOT),
        )

    def _remove_rest(self) -> None:
        """Remove what a process has left behind that ended while it held the lock."""
        for path in self._folder.iterdir():
            if _REST.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)

    def _make_part(self) -> None:
        """Make an empty part, in place of one that is not sound, if there is one."""
        fresh = self._folder / f".{self._part.name}.new.part"
        fresh.mkdir()
        (fresh / "about.json").write_text(self._about)
        with (fresh / "index").open("wb") as file:
            file.truncate(self._samples * (_CHECKSUM.itemsize + _SLOT.itemsize))
        (fresh / "images").touch()
        if self._part.is_symlink():
            self._part.unlink()
        elif self._part.exists():  # others go on with the files that they hold open
            old = self._folder / f".{self._part.name}.old.part"
            self._part.rename(old)
            shutil.rmtree(old)
        fresh.rename(self._part)

    def _is_sound(self) -> bool:
        """Whether the part has an index that can be; images that it lacks are zeros.

        A link in it is not sound: it would be written to.
        """
        files = [self._part / name for name in ("about.json", "index", "images")]
        if any(path.is_symlink() for path in (self._part, *files)):
            return False
        try:
            if (self._part / "about.json").read_text() != self._about:
                return False
            index = (self._part / "index").read_bytes()
            size = (self._part / "images").stat().st_size
        except (OSError, UnicodeDecodeError):
            return False
        if len(index) != self._samples * (_CHECKSUM.itemsize + _SLOT.itemsize):
            return False
        given = np.frombuffer(index, _SLOT, offset=self._samples * _CHECKSUM.itemsize)
        given = given[given != 0]
        last = int(given.max(initial=0))
        if last > self._samples or len(np.unique(given)) < len(given):
            return False
        if size < last * self._bytes:
            os.truncate(self._part / "images", last * self._bytes)
        return True

    def _give_slots(self) -> None:
        """Give slots to the first rows that lack one, as far as there is room.

        The file grows first: its size is what counts as taken.
        """
        without = self._rows[self._given[self._rows] == 0]
        if not len(without):
            return
        sizes = [path.stat() for path in self._folder.glob("*/images")]
        on_disk = sum(getattr(size, "st_blocks", 0) * 512 for size in sizes)
        room = disk_room(self._gb, self._folder, on_disk)
        room -= sum(size.st_size for size in sizes)
        images = self._part / "images"
        first = int(self._given.max(initial=0))
        room += images.stat().st_size - first * self._bytes  # grown, and not given
        chosen = without[: max(room // self._bytes, 0)]
        os.truncate(images, (first + len(chosen)) * self._bytes)
        self._given[chosen] = np.arange(first, first + len(chosen)) + 1
        assert self._index is not None
        write_at(self._index, self._given, self._samples * _CHECKSUM.itemsize)


def describe_pixels(
    schedule: Schedule, decoding: Decoding, source: Source
) -> dict[str, object]:
    """All that the pixels of a source's rows depend on, to be hashed."""
    about: dict[str, object] = {
        "format": _FORMAT,
        "samples": _hash_samples(source),
        "split": source.name if isinstance(source, ShardSplit) else "folder",
        "shape": schedule.shape,
        "decoding": asdict(decoding),
    }
    if schedule.device.type == "cuda" and decoding.jpeg != "libjpeg-turbo":
        about["gpu"] = torch.cuda.get_device_name(schedule.device)
        about["hw_decoder_load"] = schedule.config.hw_decoder_load
    return about


def _hash_samples(source: Source) -> str:
    """A hash of all JPEGs of a source, in order; shards have one of each sample."""
    digest = hashlib.sha256()
    if isinstance(source, ShardSplit):
        digest.update("".join(source.column("sha256")).encode())
        return digest.hexdigest()
    for row in range(len(source.labels)):
        with suppress(DataError, OSError):  # for whoever asks for this image
            digest.update(hashlib.sha256(source.read(row)).digest())
        digest.update(b"\n")
    return digest.hexdigest()


def checksum(image: UInt8, row: int) -> int:
    """A checksum of a row's image, contiguous: never 0, and another for another row."""
    return crc32c(image.data, row) or 1


def write_at(file: int, values: AnyArray, offset: int) -> None:
    """Write all bytes of a contiguous array at a place of an open file."""
    left = values.data.cast("B")
    while left:
        written = os.pwrite(file, left, offset)
        left, offset = left[written:], offset + written


def read_at(file: int, values: AnyArray, offset: int) -> bool:
    """Read a contiguous array from a place of an open file; False if that ends first.

    Raises:
        OSError: the disk fails.
    """
    left = values.data.cast("B")
    while left:
        read = os.preadv(file, [left], offset)
        if not read:
            return False
        left, offset = left[read:], offset + read
    return True
