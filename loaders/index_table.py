"""The index of a split, ``SPLIT.parquet``: a row per sample, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from loaders.arrays import Int64
from loaders.errors import ShardError
from loaders.place import Place
from loaders.untrusted import MOST_PARQUET, parse_parquet, read_place

if TYPE_CHECKING:
    import pyarrow as pa

    from loaders.shards import ShardInfo

# Name and Arrow type of the columns. `offset` and `size` are those of the JPEG in its
# tar, `sha256` and `crc32c` are of these bytes, `shard` is the tar's number; where
# `patient_known` is false, `patient` is the sample's own name; `components` are 1 for a
# grey JPEG, 4 for CMYK and 3 for all others.
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

_KEY = r"\A[A-Za-z0-9_-]{1,90}\z"  # as data.keys makes them

_ADDED_LATER = ("crc32c", "components")  # older data sets open without them


def read_index(path: Place, shards: Sequence[ShardInfo]) -> pa.Table:
    """Read a split's index; of an older version, with ``patient_known`` made up for.

    Args:
        path: of ``SPLIT.parquet``.
        shards: what the manifest lists, in order.

    Raises:
        ShardError: it can't be read, lacks a column or is not what the manifest lists.
    """
    import pyarrow as pa

    try:
        table = _with_known(parse_parquet(read_place(path, MOST_PARQUET)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardError(f"{path} cannot be read ({error})") from error
    have = {*table.column_names, *_ADDED_LATER}
    missing = [name for name in COLUMNS if name not in have]
    if missing:
        raise ShardError(f"{path} lacks the column {missing[0]!r}; shard again")
    listed = sum(shard.samples for shard in shards)
    if table.num_rows != listed:
        raise ShardError(
            f"{path} has {table.num_rows:,} rows, the manifest lists "
            f"{listed:,} samples; shard again"
        )
    sizes = np.array([shard.samples for shard in shards], np.int64)
    expected = np.repeat(np.arange(len(sizes)), sizes)
    if not np.array_equal(numbers(table, "shard"), expected):
        raise ShardError(
            f"{path} and the manifest differ on what each shard holds; shard again"
        )
    _check_keys(table, path)
    return table


def _check_keys(table: pa.Table, path: Place) -> None:
    """Files are named by keys: none may lead elsewhere, or hold more than a name.

    Raises:
        ShardError: one is no key.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if table["key"].type != pa.string():
        raise ShardError(f"{path}: key must be text, is {table['key'].type}")
    good = pc.match_substring_regex(table["key"], _KEY).fill_null(False)
    if not pc.all(good, min_count=0).as_py():
        bad = table["key"][pc.index(good, False).as_py()].as_py()
        raise ShardError(f"{path} is damaged: {str(bad)[:90]!r} is no key; shard again")


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

    if "patient_known" in table.column_names or "eye" not in table.column_names:
        return table
    return table.append_column("patient_known", pc.not_equal(table["eye"], ""))
