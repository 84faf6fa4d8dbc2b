"""Files that anybody may have written, read within limits that are stated here.

Each limit is far above what is written here, and low enough for a machine to bear.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.files import naming, open_regular
from loaders.place import Place

if TYPE_CHECKING:
    import pyarrow as pa

MOST_MANIFEST = 256 << 20  # bytes; a million images set aside
MOST_JSON = 64 << 20  # bytes; Python's lists and dicts take up to 25 times as many
MOST_CSV = 256 << 20  # 10 million rows
MOST_TENSORS = 8 << 30  # ResNet-50 with its optimizer and averages takes 0.4
MOST_PARQUET = 1 << 30  # 28,100 samples take 2.5 MB
MOST_ROWS = 10_000_000  # of Parquet
MOST_TEXT = 4096  # bytes of a text in Parquet


def read_file(path: Path, most: int) -> bytes:
    """All bytes of a regular file: what is none, or has no end, is refused at once.

    Args:
        path: the file, or a link to one.
        most: bytes that it may have.

    Raises:
        OSError: it can't be read, is no file or too long; the error names it.
    """
    with naming(path), open_regular(path) as file:
        about = os.fstat(file.fileno())
        if about.st_size > most:
            what = f"Has {about.st_size:,} bytes, and {most:,} may be read"
            raise OSError(errno.EFBIG, what, str(path))
        return file.read(most)


def read_place(path: Place, most: int) -> bytes:
    """All bytes of a regular file, or of what a server sends.

    Raises:
        OSError: as in ``read_file``, or the server has no such thing.
    """
    return read_file(path, most) if isinstance(path, Path) else path.read_bytes(most)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one; False for links that lead nowhere."""
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; False for links that lead nowhere."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def parse_json(text: str | bytes) -> object:
    """What a JSON text holds.

    Raises:
        ValueError: it is none, or too deep.
    """
    try:
        content: object = json.loads(text)
    except RecursionError:
        raise ValueError("its lists or objects lie too deep in one another") from None
    return content


def read_json(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        OSError: it can't be read, is no file or too long; the error names it.
        ValueError: it is no JSON in UTF-8.
    """
    return parse_json(read_file(path, MOST_JSON).decode())


def parse_parquet(content: bytes) -> pa.Table:
    """The table in a Parquet file, of numbers, text and truth values.

    Text is read as its distinct values first: a short file may hold a long text once,
    and say that it stands in every row.

    Raises:
        pyarrow.ArrowException, OSError: it is damaged.
        ValueError: it is larger than the limits.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # From bytes: Arrow's own threads let go of a file some time later.
    about = pq.ParquetFile(pa.BufferReader(content))
    groups = map(about.metadata.row_group, range(about.metadata.num_row_groups))
    num_bytes = sum(group.total_byte_size for group in groups)
    if num_bytes > MOST_PARQUET or about.metadata.num_rows > MOST_ROWS:
        raise ValueError(
            f"{about.metadata.num_rows:,} rows of {num_bytes:,} bytes are more than "
            f"{MOST_ROWS:,} of {MOST_PARQUET:,}"
        )
    columns = [about.schema.column(place) for place in range(len(about.schema))]
    for column in columns:
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" or "." in column.path:
            raise ValueError(f"{column.path} is of a type that is not read")
    text = [each.path for each in columns if each.physical_type == "BYTE_ARRAY"]
    file = pq.ParquetFile(
        pa.BufferReader(content), read_dictionary=text, page_checksum_verification=True
    )
    table = file.read()
    for place, name in enumerate(table.column_names):
        column = table.column(place)
        if not pa.types.is_dictionary(column.type):
            continue
        for chunk in column.chunks:
            longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
            if longest > MOST_TEXT:
                raise ValueError(f"a text in {name} has {longest:,} bytes")
        plain = column.cast(column.type.value_type)
        table = table.set_column(place, name, plain)
    return table
