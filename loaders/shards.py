"""The shard format, and reading it: any sample, at any time, from a memory map.

    with open_split("shards", "train") as split:
        jpeg = split.read(0)              # memoryview of the original JPEG bytes
        grade = split.labels[0]

A data set is a folder: ``manifest.json`` (written last: without it there is no data
set), and for each split one ``SPLIT.parquet`` with a row per sample and the tars it
points into, each with its DALI index.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from crc32c import crc32c

from loaders.arrays import Int64
from loaders.base import Reading
from loaders.contents import describe_mistake, look_into
from loaders.errors import NoShards, SampleError, ShardError
from loaders.index_table import numbers, numbers_if_there, read_index
from loaders.place import Place, Url, place, stream_size
from loaders.untrusted import MOST_MANIFEST, check_shard_names, read_place

FORMAT = 1
MANIFEST = "manifest.json"
SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "test")

# Each map holds a file descriptor, 1,024 is a usual limit, and two splits are open at
# once in training.
_MAPS = 256

DAMAGED = "its bytes are not those that were written, as their checksum tells"


def shard_name(split: str, number: int) -> str:
    """File name of a shard, e.g. ``train-000007.tar``."""
    return f"{split}-{number:06d}.tar"


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard as the manifest lists it."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What was done to the photographs when shards were written.

    Attributes:
        steps: their names, in order.
        size: pixels square that the images were resized to; None if they were not.
    """

    steps: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a data set's photographs come from; None where it is not told.

    Attributes:
        source: what the person who sharded them has said.
        layout: how its labels were kept, e.g. ``kaggle``.
        listed: number of photographs that the labels list.
        drawn: number of them that ``fastretina demo`` has drawn.
        patients: what their patients were identified from.
    """

    source: str | None = None
    layout: str | None = None
    listed: int | None = None
    drawn: int | None = None
    patients: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``manifest.json`` says about a data set.

    Attributes:
        splits: split name to its shards, in order.
        counts: split name to the number of samples of each grade, "0" to "4".
        fingerprint: what the data set was made from and how, hashed.
        preprocessing: what was done to the photographs; None where it is not told.
        origin: where the photographs come from.
        raw: the whole of it, as JSON gives it.
    """

    splits: Mapping[str, tuple[ShardInfo, ...]]
    counts: Mapping[str, Mapping[str, int]]
    fingerprint: str | None
    preprocessing: Preprocessing | None
    origin: Origin
    raw: Mapping[str, Any]


def read_manifest(folder: Place) -> Manifest:
    """Read and check ``manifest.json``.

    Raises:
        NoShards: there is none.
        ShardError: it is damaged, or of a format that this version does not read.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(read_place(path, MOST_MANIFEST).decode())
    except (FileNotFoundError, NotADirectoryError):
        if isinstance(folder, Path) and (mistake := _describe_mistake(folder)):
            raise NoShards(mistake) from None
        raise NoShards(
            f"no data set in {folder}{_state(folder)}: make one with "
            f"'fastretina shard data/ {folder}'; for photographs to try, "
            "'fastretina demo data/'"
        ) from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ShardError(f"{path} is damaged ({error}); shard again") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error})") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        got = raw.get("format") if isinstance(raw, dict) else raw
        raise ShardError(
            f"{path}: format must be {FORMAT}, got {got!r}; "
            "shard again with this version of fastretina"
        )
    try:
        splits = {
            name: tuple(ShardInfo(**info) for info in split["shards"])
            for name, split in raw["splits"].items()
        }
        check_shard_names(info.name for shards in splits.values() for info in shards)
        counts = {name: dict(split["grades"]) for name, split in raw["splits"].items()}
        done = raw.get("preprocessing")
        preprocessing = done and Preprocessing(tuple(done["steps"]), done["size"])
        about = raw.get("source", {})
        origin = Origin(**{n: about.get(n) for n in Origin.__dataclass_fields__})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ShardError(f"{path} is damaged ({error!r}); shard again") from error
    fingerprint = raw.get("fingerprint")
    return Manifest(splits, counts, fingerprint, preprocessing, origin, raw)


def _describe_mistake(path: Path) -> str | None:
    """What a path holds in place of a data set, and what to do; None if nothing."""
    kind = look_into(path)
    if kind == "photographs":
        out = "shards" if path.name != "shards" else "new_shards"
        remedy = f"run 'fastretina shard {path} {out}' and name {out}"
    elif kind == "part of shards":
        remedy = f"name that folder, {path.parent}"
    elif kind == "other" and _holds_tars(path):
        return (
            f"{path} holds tars without an index, not shards: run 'fastretina shard "
            f"{path} new_shards', which makes shards of them, and name new_shards"
        )
    elif kind in ("nothing", "other"):
        return None
    else:
        remedy = "name the folder that 'fastretina shard' has written"
    return f"{path} {describe_mistake(path)}, not shards: {remedy}"


def _holds_tars(folder: Path) -> bool:
    """Whether a folder holds tars, and not such as are being written there."""
    return not (folder / ".progress").exists() and any(folder.glob("*.tar"))


def _state(folder: Place) -> str:
    """Why there is no manifest, as far as can be seen."""
    if isinstance(folder, Url):
        return ""
    if not folder.exists():
        return " (the folder does not exist)"
    return " (an unfinished one)" if (folder / ".progress").exists() else ""


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
        self.table = read_index(folder / f"{name}.parquet", self.shards)
        self.labels = numbers(self.table, "label")
        self.rows = np.arange(len(self.labels)) if rows is None else rows
        self._shard = numbers(self.table, "shard")
        self._offset = numbers(self.table, "offset")
        self._size = numbers(self.table, "size")
        self._checksum = numbers_if_there(self.table, "crc32c")
        self._components = numbers_if_there(self.table, "components")
        self._map = lru_cache(maxsize=_MAPS)(self._open_map)

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
        """Let go of the memory maps; those still in use close with their last view."""
        self._map.cache_clear()

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
        """The JPEG bytes of a row, without a copy, checked.

        Raises:
            SampleError: they are not those that were written.
            ShardError: its shard is on a web server, can't be read or was cut short.
        """
        jpeg = self.reading(np.array([row])).read(0)
        assert isinstance(jpeg, memoryview)
        return jpeg

    def reading(self, rows: Int64, *, verify: bool = True) -> Reading:
        """How a batch is read; see ``loaders.base.Source.reading``.

        Its ``read`` raises what that of one row does.
        """
        places = self.places_of(rows)
        shards, starts = places.shard.tolist(), places.offset.tolist()
        ends = (places.offset + places.size).tolist()
        sums = self.checksums(rows) if verify else None

        def read(place: int) -> memoryview:
            jpeg = self._map(shards[place])[starts[place] : ends[place]]
            if sums is not None and crc32c(jpeg) != sums[place]:
                raise self.failure(int(rows[place]), DAMAGED)
            return jpeg

        return Reading(read, self.components(rows))

    def components(self, rows: Int64) -> list[int] | None:
        """Of these rows' JPEGs; ``None`` for data sets of older versions."""
        return None if self._components is None else self._components[rows].tolist()

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

    def open_shard(self, number: int) -> BinaryIO:
        """The bytes of a tar, from a file or a web server, to be read in sequence.

        Raises:
            ShardError: it can't be read, or has another size than the manifest says.
        """
        info = self.shards[number]
        path = self.folder / info.name
        try:
            stream: BinaryIO = path.open("rb")
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

    def _open_map(self, number: int) -> memoryview:
        if isinstance(self.folder, Url):
            raise ShardError(
                f"{self.folder} is on a web server, which only the webdataset loader "
                "reads: pass --loader webdataset"
            )
        with self.open_shard(number) as file:  # past the end of a map is a SIGBUS
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return memoryview(whole)


def open_split(folder: str | Place, name: str) -> ShardSplit:
    """Open a split for reading; see ``ShardSplit``.

    Args:
        folder: of the data set, or an http(s) URL of one.
        name: ``train`` or ``test``.

    Raises:
        NoShards: the folder holds no finished data set.
        ShardError: it has no such split, or its index is damaged.
    """
    return ShardSplit(place(folder), name)
