"""The index of a split, ``SPLIT.parquet``: a row per sample, read and checked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from loaders.arrays import Int64
from loaders.errors import ShardError
from loaders.grades import GRADES
from loaders.parquet import MOST_PARQUET, parse_parquet
from loaders.place import Place, Url
from loaders.tar import BLOCK, KEY
from loaders.untrusted import read_place

if TYPE_CHECKING:
    import pyarrow as pa

    from loaders.manifest import IndexFile, ShardInfo

# Name and Arrow type of the columns. `offset` and `size` are those of the JPEG in its
# tar, `sha256` and `crc32c` are of these bytes, `shard` is the tar's number; where
# `patient_known` is false, `patient` is the sample's own name; `components` are 1 for a
# grey JPEG, 4 for CMYK and 3 for all others. No loader believes it: each JPEG's header
# tells, at 1 us.
COLUMNS = {
    "key": "string",
    "shard": "int32",
    "offset": "int64",
    "size": "int64",
    "label": "int8",
    "patient": "string",
    "eye": "string",
    "width": "int32",
    "height": "int32",
    "sha256": "string",
    "patient_known": "bool",
    "crc32c": "uint32",
    "components": "int8",
}

# Older data sets open without them; `patient_known` is made up for.
_ADDED_LATER = ("patient_known", "crc32c", "components")

_MOST = (1 << 63) - 1
_BOUNDS = {
    "label": (0, len(GRADES) - 1),
    "offset": (BLOCK, _MOST),
    "size": (0, _MOST),
    "width": (1, 65_535),  # a JPEG's most
    "height": (1, 65_535),
    "components": (1, 4),
}
_FORMS = {"key": rf"^{KEY.pattern}$", "sha256": "^[0-9a-f]{64}$"}


def read_index(
    path: Place, shards: Sequence[ShardInfo], written: IndexFile | None
) -> pa.Table:
    """Read a split's index; of an older version, with ``patient_known`` made up for.

    Args:
        path: of ``SPLIT.parquet``.
        shards: what the manifest lists, in order.
        written: the file as the manifest lists it; None in an older version's.

    Raises:
        ShardError: it can't be read, is not what was written, lacks a column, or a
            value in it is none that sharding writes.
    """
    damaged = ShardError(
        f"{path} is damaged: it is not what was written, as its checksum tells; "
        "shard again"
    )
    try:
        if _has_other_size(path, written):  # it may be larger than memory
            raise damaged
        content = read_place(path, MOST_PARQUET)
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error})") from error
    if written is not None and _sha256(content) != written.sha256:
        raise damaged
    table = _read_table(path, content, sum(shard.samples for shard in shards))
    samples = np.array([shard.samples for shard in shards], np.int64)
    expected = np.repeat(np.arange(len(samples)), samples)
    if not np.array_equal(numbers(table, "shard"), expected):
        raise ShardError(
            f"{path} and the manifest differ on what each shard holds; shard again"
        )
    sizes = np.array([shard.bytes for shard in shards], np.int64)[expected]
    if fault := _fault_in(table, sizes):
        raise ShardError(f"{path}: {fault}; shard again")
    return table


def _has_other_size(path: Place, written: IndexFile | None) -> bool:
    if written is None or isinstance(path, Url):
        return False
    return path.stat().st_size != written.bytes


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_table(path: Place, content: bytes, listed: int) -> pa.Table:
    """The table in a file's bytes, of the columns and types that sharding writes.

    Args:
        path: the file, for errors.
        content: its bytes.
        listed: number of samples that the manifest lists.

    Raises:
        ShardError: there is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if fault := _fault_in_columns(file.schema_arrow):
            raise ShardError(f"{path} {fault}; shard again")
        if (num_rows := file.metadata.num_rows) != listed:  # before any are read
            raise ShardError(
                f"{path} has {num_rows:,} rows, the manifest lists {listed:,} samples; "
                "shard again"
            )
        table = parse_parquet(content, COLUMNS)
        table.validate(full=True)  # text that is no UTF-8, too
        if table.num_rows != listed:
            raise ValueError(f"its end counts {listed:,} rows, {table.num_rows:,} came")
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ShardError(f"{path} cannot be read ({reason})") from error
    for name in table.column_names:
        if table[name].null_count:
            raise ShardError(f"{path}: a row lacks its {name}; shard again")
    return _with_known(table)


def _fault_in_columns(schema: pa.Schema) -> str | None:
    """What is wrong with the names and types of the columns, if anything is."""
    import pyarrow as pa

    for name, kind in COLUMNS.items():
        count = schema.names.count(name)
        if count == 0 and name not in _ADDED_LATER:
            return f"lacks the column {name!r}"
        if count > 1:
            return f"has the column {name!r} {count} times"
        if count and (got := schema.field(name).type) != pa.type_for_alias(kind):
            return f"has {got} in the column {name!r}, where {kind} must be"
    return None


def _fault_in(table: pa.Table, shard_sizes: Int64) -> str | None:
    """What is wrong with the values of an index, if anything is.

    Args:
        table: the index.
        shard_sizes: int64[N], bytes of the tar that each row points into.
    """
    import pyarrow.compute as pc

    for name, (low, high) in _BOUNDS.items():
        if name in table.column_names and not _lie_in(table[name], low, high):
            return f"a row's {name} is not within {low} to {high}"
    for name, pattern in _FORMS.items():
        if pc.all(pc.match_substring_regex(table[name], pattern)).as_py() is False:
            return f"a row's {name} has another form than what is written"
    if pc.count_distinct(table["key"]).as_py() != table.num_rows:
        return "a key comes twice"
    start, size = numbers(table, "offset"), numbers(table, "size")
    if (start % BLOCK).any():
        return "a row's offset is none of a tar's members"
    if (start > shard_sizes - size).any():
        return "a row points out of its shard"
    shard = numbers(table, "shard")
    if (start[1:] < start[:-1] + size[:-1])[shard[1:] == shard[:-1]].any():
        return "a row points into the one before"
    return None


def _lie_in(column: pa.ChunkedArray, low: int, high: int) -> bool:
    values = column.to_numpy()
    return not len(values) or bool(low <= values.min() and values.max() <= high)


def check_grades(path: Place, labels: Int64, counts: Mapping[str, int]) -> None:
    """Hold an index's grades, int64[N], against the numbers of them in the manifest.

    Args:
        path: of ``SPLIT.parquet``, for the error.
        labels: the grades, within their range.
        counts: grade to number of samples.

    Raises:
        ShardError: they differ.
    """
    found = enumerate(np.bincount(labels).tolist())
    if Counter({str(grade): count for grade, count in found}) != Counter(counts):
        raise ShardError(f"{path}: its grades are not the manifest's; shard again")


def numbers(table: pa.Table, column: str) -> Int64:
    """A column of numbers, int64[N]."""
    values: Int64 = table[column].to_numpy().astype(np.int64)
    return values


def numbers_if_there(table: pa.Table, column: str) -> Int64 | None:
    """A column of numbers, int64[N]; None where an older index has none."""
    return numbers(table, column) if column in table.column_names else None


def _with_known(table: pa.Table) -> pa.Table:
    """The index of an older version with ``patient_known``, which the eye told then."""
    import pyarrow.compute as pc

    if "patient_known" in table.column_names:
        return table
    return table.append_column("patient_known", pc.not_equal(table["eye"], ""))
