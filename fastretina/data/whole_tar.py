"""Whether a tar is whole: readers of tars take damage, in most places, for its end."""

from __future__ import annotations

import tarfile
from pathlib import Path

from loaders.errors import LabelError

_BLOCK = 512
_REMEDY = "get it again, or move it away"


def check_whole(path: Path) -> None:
    """Go through a tar's headers to its end, which must look like one.

    ``tarfile``, and so the webdataset library, ends in silence at a header that is
    damaged or cut short, and at the first of two tars in one file. A header takes some
    20 us; the members' bytes are not read.

    Raises:
        LabelError: it is no plain tar, damaged, cut short, or goes on after its end.
        OSError: it can't be read.
    """
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for _ in tar:
                end = tar.offset  # of the next header
                tar.members = []  # type: ignore[attr-defined] # 1 KB each
    except (tarfile.TarError, ValueError) as error:
        where = f" after byte {end:,}" if end else ""
        raise LabelError(
            f"{path} is no plain tar, damaged or cut short{where} ({error}); {_REMEDY}"
        ) from None
    with path.open("rb") as file:
        file.seek(end)
        first = file.read(_BLOCK)
        if len(first) < _BLOCK or any(first):
            raise LabelError(
                f"{path} is damaged or cut short after byte {end:,}: a tar's end is "
                f"not there; {_REMEDY}"
            )
        while block := file.read(1 << 20):
            if block.count(0) < len(block):
                raise LabelError(
                    f"{path} goes on after its end, at byte {end:,}, where readers "
                    "stop: it may be several tars in one; make them one, or several "
                    "files"
                )
