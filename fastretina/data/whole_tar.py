"""Whether a tar is whole, and its members can be held in memory.

Readers of tars take damage, in most places, for its end, and believe the sizes that a
tar claims: of a sparse member, 2,560 bytes can claim gigabytes of zeros.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

from loaders.errors import LabelError
from loaders.jpeg_structure import MOST_PHOTOGRAPH

_BLOCK = 512
_REMEDY = "get it again, or move it away"
_MOST_HEADER = 1 << 20  # bytes of a long name or of PAX records; a path has 4,096
# Bytes of one key's members, which are in memory together: 1.2.840.jpg and 1.2.841.jpg
# are of one key, so that a whole set may be.
_MOST_SAMPLE = 8 << 30
_HEADERS = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
    | {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class UnfitMember(Exception):
    """A member that is not read; the text is the reason."""


class BoundedHeader(tarfile.TarInfo):
    """A header that is looked at before what it claims to need is read."""

    @classmethod
    def frombuf(
        cls, buf: bytes | bytearray, encoding: str, errors: str
    ) -> BoundedHeader:
        """A header of 512 bytes.

        Raises:
            UnfitMember: what follows it is not to be read.
        """
        header = super().frombuf(buf, encoding, errors)
        if header.type in _HEADERS and header.size > _MOST_HEADER:
            raise UnfitMember(
                f"a header has {header.size:,} bytes, and {_MOST_HEADER:,} may be read"
            )
        if header.type == tarfile.GNUTYPE_SPARSE:
            _refuse_sparse(header.name)
        return header


def check_whole(path: Path) -> None:
    """Go through a tar's headers to its end, which must look like one.

    ``tarfile``, and so the webdataset library, ends in silence at a header that is
    damaged or cut short, and at the first of two tars in one file. A header takes some
    20 us; the members' bytes are not read.

    Raises:
        LabelError: it is no plain tar, damaged, cut short, or goes on after its end; a
            member is sparse, or has more than ``MOST_PHOTOGRAPH`` bytes.
        OSError: it can't be read.
    """
    end = 0
    try:
        with tarfile.open(path, "r:", tarinfo=BoundedHeader) as tar:
            for _ in bounded_members(tar):
                end = tar.offset  # of the next header
                tar.members = []  # type: ignore[attr-defined] # 1 KB each
    except UnfitMember as error:
        raise LabelError(
            f"{path}: {error}; pack the photographs again, each as a plain member"
        ) from None
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


def bounded_members(members: Iterable[tarfile.TarInfo]) -> Iterable[tarfile.TarInfo]:
    """The same, while none is sparse and they fit in memory."""
    key, num_bytes = ("", ""), 0
    for member in members:
        if member.issparse() or any(
            name.startswith("GNU.sparse.") for name in member.pax_headers
        ):
            _refuse_sparse(member.name)
        if member.isreg():
            _check_size(member.name, member.size, MOST_PHOTOGRAPH)
            folder, _, base = member.name.rpartition("/")
            last, key = key, (folder, base.partition(".")[0])
            num_bytes = member.size + (num_bytes if key == last else 0)
            _check_size("/".join(filter(None, key)), num_bytes, _MOST_SAMPLE)
        yield member


def _refuse_sparse(name: str) -> None:
    raise UnfitMember(f"{name[:100]!r} is sparse: it may claim any size")


def _check_size(name: str, num_bytes: int, most: int) -> None:
    if num_bytes > most:
        raise UnfitMember(
            f"{name[:100]!r} has {num_bytes:,} bytes, and {most:,} may be read"
        )
