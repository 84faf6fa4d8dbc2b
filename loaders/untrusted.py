"""Files that anybody may have written, read within limits that are stated here.

Each limit is far above what is written here, and low enough for a machine to bear.
"""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

from loaders.files import naming, open_regular
from loaders.place import Place

MOST_MANIFEST = 64 << 20  # bytes; 100 million images, 512 a shard, take 51 million
MOST_JSON = 64 << 20  # bytes; Python's lists and dicts take up to 25 times as many
MOST_NUMBER = 1e50  # in JSON; a million losses in float32 come to 1e45
MOST_WHOLE = 1 << 64  # the same of whole numbers; seeds go up to half of it
MOST_CSV = 256 << 20  # 10 million rows
MOST_TENSORS = 8 << 30  # ResNet-50 with its optimizer and averages takes 0.4

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # and no backslash before a u0000


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
        return file.read(about.st_size or most)  # what is asked for is allocated


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
        ValueError: it is none, too deep, holds a NUL, which no path and no name may,
            or a number that is too large to compute on.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    if _NUL.search(text):
        raise ValueError("a text in it holds a NUL")
    try:
        content: object = json.loads(
            text, parse_float=_read_real, parse_int=_read_whole
        )
    except RecursionError:
        raise ValueError("its lists or objects lie too deep in one another") from None
    return content


def _read_real(text: str) -> float:
    if abs(value := float(text)) > MOST_NUMBER:
        raise ValueError(f"a number in it is beyond {MOST_NUMBER:g}")
    return value


def _read_whole(text: str) -> int:
    if abs(value := int(text)) > MOST_WHOLE:  # int refuses those of 4,300 digits
        raise ValueError(f"a number in it is beyond {MOST_WHOLE}")
    return value


def read_json(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        OSError: it can't be read, is no file or too long; the error names it.
        ValueError: it is no JSON in UTF-8.
    """
    return parse_json(read_file(path, MOST_JSON).decode())
