"""Parquet of strangers: the columns that are known, within limits that hold unpacked.

A short file may say that a long text stands in every row, or hold many rows of nothing.
So each column is read some row groups at a time, its text as the distinct values and
where they stand, and is counted before it is written out. Not bounded is one page while
it is unpacked, to which the format gives 2 GiB: by what it is packed can't be asked, as
a damaged answer ends the process (pyarrow 26).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MOST_PARQUET = 1 << 30  # bytes of a file; 28,100 samples take 2.5 MB
MOST_ROWS = 10_000_000
MOST_TEXT = 4096  # bytes of a text
MOST_TABLE = 2 << 30  # bytes in memory; 10 million samples of an index take 1.6 GB

_ROWS_AT_ONCE = 1 << 20


def parse_parquet(content: bytes, columns: Collection[str]) -> pa.Table:
    """Columns of numbers, text and truth values in a Parquet file's bytes.

    Args:
        content: the bytes.
        columns: names of what is read, as far as it is there; all else is passed over.

    Raises:
        pyarrow.ArrowException, OSError: it is damaged.
        ValueError: it is larger than the limits, or a column is of no such type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # From bytes: Arrow's own threads let go of a file some time later.
    about = pq.ParquetFile(pa.BufferReader(content))
    names, text = _find_columns(about, columns)
    if about.metadata.num_rows > MOST_ROWS:
        raise ValueError(
            f"{about.metadata.num_rows:,} rows are more than {MOST_ROWS:,}"
        )
    file = pq.ParquetFile(
        pa.BufferReader(content), read_dictionary=text, page_checksum_verification=True
    )
    read, size = {}, 0
    for name in names:
        chunks = []
        for groups in _row_groups(about.metadata):
            column = file.read_row_groups(groups, columns=[name]).column(0)
            size += sum(_unpacked_size(name, chunk) for chunk in column.chunks)
            if size > MOST_TABLE:
                raise ValueError(f"it takes more than {MOST_TABLE:,} bytes unpacked")
            chunks += column.chunks
        read[name] = chunks
    schema = about.schema_arrow
    for name, chunks in read.items():  # all of it is counted
        kind = schema.field(name).type
        read[name] = pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)
    return pa.table(read).replace_schema_metadata(schema.metadata)


def _find_columns(
    file: pq.ParquetFile, wanted: Collection[str]
) -> tuple[list[str], list[str]]:
    """The columns that are there, in their order, and those of text among them."""
    names = [name for name in file.schema_arrow.names if name in wanted]
    if len(set(names)) < len(names):
        raise ValueError("a column comes twice")
    kinds = {}
    for place in range(len(file.schema)):
        column = file.schema.column(place)
        name = column.path.partition(".")[0]
        if name not in names:
            continue
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" or column.path != name:
            raise ValueError(f"{column.path} is of a type that is not read")
        kinds[name] = column.physical_type
    return names, [name for name in names if kinds[name] == "BYTE_ARRAY"]


def _row_groups(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """The numbers of the row groups, as many together as have a million rows."""
    groups: list[int] = []
    rows = 0
    for group in range(metadata.num_row_groups):
        added = metadata.row_group(group).num_rows
        if groups and rows + added > _ROWS_AT_ONCE:
            yield groups
            groups, rows = [], 0
        groups.append(group)
        rows += added
    if groups:
        yield groups


def _unpacked_size(name: str, chunk: pa.Array) -> int:
    """Bytes of it once each row has a value of its own.

    Raises:
        ValueError: a text in it is too long.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary)
    longest = pc.max(lengths).as_py() or 0
    if longest > MOST_TEXT:
        raise ValueError(f"a text in {name} has {longest:,} bytes")
    places = chunk.indices.drop_null().to_numpy()
    counts = np.bincount(places, minlength=len(lengths))
    text = int(counts @ lengths.fill_null(0).to_numpy().astype(np.int64))
    return text + 8 * len(chunk)
