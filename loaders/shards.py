"""The shard format, and reading it: any sample, at any time.

    with open_split("shards", "train") as split:
        jpeg = split.read(0)              # memoryview of the original JPEG bytes
        grade = split.labels[0]

A data set is a folder: ``manifest.json`` (written last: without it there is no data
set), and for each split one ``SPLIT.parquet`` with a row per sample and the tars it
points into, each with its DALI index. The manifest holds checksums of all of these.

Bytes are read and not mapped: of a file that is cut short while it is in use, a map
ends the process with a SIGBUS.
"""

from __future__ import annotations

import os
import threading
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from crc32c import crc32c

from loaders._open_tar import OpenTar, most_files
from loaders.arrays import Int64
from loaders.base import Reading
from loaders.errors import SampleError, ShardError
from loaders.files import hash_file, open_regular
from loaders.index_table import check_grades, numbers, numbers_if_there, read_index
from loaders.manifest import (
    FORMAT,
    MANIFEST,
    SPLITS,
    Manifest,
    Origin,
    Preprocessing,
    ShardInfo,
    SplitName,
    read_manifest,
    shard_name,
)
from loaders.place import Place, Url, place, stream_size

__all__ = [
    "DAMAGED",
    "FORMAT",
    "MANIFEST",
    "SPLITS",
    "JpegPlaces",
    "Manifest",
    "Origin",
    "Preprocessing",
    "ShardInfo",
    "ShardSplit",
    "SplitName",
    "open_split",
    "read_manifest",
    "shard_name",
]

# Each takes a file descriptor, 1,024 is a usual limit, and two splits are open at once
# in training.
_OPEN_TARS = 256

_MOST_DALI_INDEX = 500  # bytes, of a line with three names of 95 letters

DAMAGED = "its bytes are not those that were written, as their checksum tells"


class JpegPlaces(NamedTuple):
    """Where JPEGs are: int64[n] each.

    Attributes:
        shard: number of the tar.
        offset: of the first byte in it.
        size: number of bytes.
    """

    shard: Int64
    offset: Int64
    size: Int64


class ShardSplit:
    """One split of a data set, opened for reading.

    Rows are numbered as in ``SPLIT.parquet``, which is shard by shard. Thread-safe;
    pickles as its path, so that worker processes open their own.

    Attributes:
        folder: the data set, or its URL.
        name: the split.
        rows: int64[n], the rows that belong; all of them unless ``select``-ed.
        labels: int64[N] grades of all rows.
    """

    def __init__(self, folder: Place, name: str, rows: Int64 | None = None) -> None:
        self.folder = folder
        self.name = name
        manifest = read_manifest(folder)
        if name not in manifest.splits:
            have = ", ".join(manifest.splits)
            raise ShardError(f"{folder} has no split {name!r}; it has: {have}")
        self.shards = manifest.splits[name]
        self.manifest = manifest
        index = folder / f"{name}.parquet"
        self.table = read_index(index, self.shards, manifest.indices.get(name))
        self.labels = numbers(self.table, "label")
        check_grades(index, self.labels, manifest.counts[name])
        self.rows = np.arange(len(self.labels)) if rows is None else rows
        self._shard = numbers(self.table, "shard")
        self._offset = numbers(self.table, "offset")
        self._size = numbers(self.table, "size")
        self._checksum = numbers_if_there(self.table, "crc32c")
        most = min(_OPEN_TARS, most_files() // 4)
        self._tar = lru_cache(maxsize=most)(self._open_tar)

    def __len__(self) -> int:
        return len(self.rows)

    def __enter__(self) -> ShardSplit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[ShardSplit], tuple[Place, str, Int64]]:
        return ShardSplit, (self.folder, self.name, self.rows)

    def close(self) -> None:
        """Close the tars; one that is being read, behind that. Reading opens again."""
        self._tar.cache_clear()

    def select(self, rows: Int64) -> ShardSplit:
        """The same split with only some rows, which keep their numbers."""
        return ShardSplit(self.folder, self.name, np.sort(rows))

    @cached_property
    def shard_sizes(self) -> tuple[int, ...]:
        """How many of ``rows`` each shard holds."""
        counts = np.bincount(self._shard[self.rows], minlength=len(self.shards))
        return tuple(counts.tolist())

    @cached_property
    def dimensions(self) -> tuple[tuple[int, int], ...]:
        """The distinct (height, width) of the images of ``rows``, pixels."""
        sides = [numbers(self.table, name) for name in ("height", "width")]
        both = np.stack(sides, axis=1)
        return tuple(map(tuple, np.unique(both[self.rows], axis=0).tolist()))

    def read(self, row: int) -> memoryview:
        """The JPEG bytes of a row, checked.

        Raises:
            SampleError: they are not those that were written.
            ShardError: its shard is on a web server, can't be read or was cut short.
        """
        return memoryview(self.reading(np.array([row])).read(0))

    def reading(self, rows: Int64, *, verify: bool = True) -> Reading:
        """How a batch is read; see ``loaders.base.Source.reading``.

        Its ``read`` raises what that of one row does.
        """
        places = self.places_of(rows)
        shards, starts = places.shard.tolist(), places.offset.tolist()
        sizes = places.size.tolist()
        sums = self.checksums(rows) if verify else None

        def read(place: int) -> bytes:
            size = sizes[place]
            tar = self._tar(shards[place])
            try:
                jpeg = tar.read(starts[place], size)
            except OSError as error:  # of a disk that fails, and no fault of the image
                reason = f"cannot be read ({error.strerror or error})"
                raise self._unreadable(int(rows[place]), reason) from error
            if len(jpeg) != size:
                reason = "was cut short while it was in use; shard again"
                raise self._unreadable(int(rows[place]), reason)
            if sums is not None and crc32c(jpeg) != sums[place]:
                raise self.failure(int(rows[place]), DAMAGED)
            return jpeg

        return Reading(read)

    def checksums(self, rows: Int64) -> list[int] | None:
        """CRC-32C of these rows' JPEGs; ``None`` for data sets of older versions."""
        return None if self._checksum is None else self._checksum[rows].tolist()

    def column(self, name: str) -> list[Any]:
        """A column of the table, e.g. ``key`` or ``patient``, for all N rows."""
        values: list[Any] = self.table[name].to_pylist()
        return values

    def key(self, row: int) -> str:
        """The sample's name."""
        key: str = self.table["key"][int(row)].as_py()
        return key

    @cached_property
    def keys(self) -> list[str]:
        """The names of all N samples."""
        return self.column("key")

    def places_of(self, rows: Int64) -> JpegPlaces:
        """Where in which tar the JPEGs of these rows are."""
        return JpegPlaces(self._shard[rows], self._offset[rows], self._size[rows])

    def shard_of(self, rows: Int64) -> Int64:
        """The numbers of the shards that hold these rows, int64[n]."""
        numbers: Int64 = self._shard[rows]
        return numbers

    def failure(self, row: int, reason: str) -> SampleError:
        """The error that names the place of a row."""
        shard = self.folder / self.shards[int(self._shard[row])].name
        return SampleError(str(shard), self.key(row), reason)

    def _unreadable(self, row: int, reason: str) -> ShardError:
        """The error of a shard that fails at a row: its other samples may, too."""
        shard = self.folder / self.shards[int(self._shard[row])].name
        return ShardError(f"{shard}, sample {self.key(row)}: the shard {reason}")

    def open_shard(
        self, number: int, *, stopped: threading.Event | None = None
    ) -> BinaryIO:
        """The bytes of a tar, from a file or a web server, to be read in sequence.

        Args:
            number: the shard's.
            stopped: is set once nobody waits for a server any longer.

        Raises:
            ShardError: it can't be read, or has another size than the manifest says.
        """
        info = self.shards[number]
        path = self.folder / info.name
        try:
            stream: BinaryIO = (
                path.open(stopped=stopped)
                if isinstance(path, Url)
                else open_regular(path)
            )
        except OSError as error:
            raise ShardError(f"{path} cannot be read ({error})") from error
        local = isinstance(path, Path)
        size = os.fstat(stream.fileno()).st_size if local else stream_size(stream)
        if size not in (None, info.bytes):
            stream.close()
            raise ShardError(
                f"{path} has {size:,} bytes, the manifest says {info.bytes:,}: it was "
                "changed or cut short; shard again"
            )
        return stream

    def _check_dali_indices(self) -> None:
        """Compare the ``.idx`` files that are there with the manifest's checksums.

        Raises:
            ShardError: one is not what was written.
        """
        if isinstance(self.folder, Url):  # where nobody reads them
            return
        for shard in self.shards:
            path = (self.folder / shard.name).with_suffix(".idx")
            try:
                # Nothing is read of one that is larger than any.
                same = shard.index_sha256 is None or (
                    path.stat().st_size <= _MOST_DALI_INDEX * (1 + shard.samples)
                    and hash_file(path) == shard.index_sha256
                )
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ShardError(f"{path} cannot be read ({error})") from error
            if not same:
                raise ShardError(
                    f"{path} is damaged: it is not what was written, as its checksum "
                    "tells; shard again"
                )

    def _open_tar(self, number: int) -> OpenTar:
        if isinstance(self.folder, Url):
            raise ShardError(
                f"{self.folder} is on a web server, which only the webdataset loader "
                "reads: pass --loader webdataset"
            )
        with self.open_shard(number) as file:
            return OpenTar(file)


def open_split(folder: str | Place, name: str) -> ShardSplit:
    """Open a split for reading; see ``ShardSplit``.

    Args:
        folder: of the data set, or an http(s) URL of one.
        name: ``train`` or ``test``.

    Raises:
        NoShards: the folder holds no finished data set.
        ShardError: it has no such split, or manifest or index are damaged.
    """
    split = ShardSplit(place(folder), name)
    split._check_dali_indices()
    return split
