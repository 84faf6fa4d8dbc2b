"""What a JPEG is made of: a walk over its segments, which decodes nothing.

All decoders agree on a *plain* JPEG: the segments before its first scan follow one
another without a byte between them, and its frame is baseline or progressive, of 8
bits, grey or YCbCr. On others they don't: DALI's parser refuses a marker without a
length, and the process may die of it; Pillow refuses lossless coding, which
libjpeg-turbo takes; CMYK comes out in other colours. So sharding writes those anew,
and DALI is given none.

The time that a JPEG takes to decode is bounded by its pixels and its scans: each scan
goes over the whole image, and may be 10 bytes long.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from loaders.base import Jpeg

MOST_PIXELS = 178_956_970  # Pillow's own limit: damage may claim 65,535 x 65,535
# Bytes of a file: MOST_PIXELS of 8-bit colour without compression, as in a TIFF.
MOST_PHOTOGRAPH = 512 << 20
MOST_SCANNED = 2_000_000_000  # pixels times scans: about 10 s of one core at most

_BASELINE, _PROGRESSIVE = 0xC0, 0xC2
_HUFFMAN, _SCAN, _QUANTISATION, _RESTARTS = 0xC4, 0xDA, 0xDB, 0xDD
_JFIF, _ADOBE, _COMMENT, _END = 0xE0, 0xEE, 0xFE, 0xD9
_TABLES = frozenset({_HUFFMAN, _QUANTISATION, _RESTARTS, _COMMENT})
_APPLICATION = frozenset(range(0xE0, 0xF0))
_BEGIN = b"\xff\xd8\xff"
_SEGMENT = struct.Struct(">BBH")
_FRAME = struct.Struct(">BHHB")  # bits, height, width, components
_SAMPLINGS = frozenset({0x11, 0x21, 0x22, 0x12, 0x41})  # of brightness; of colour 0x11
_LEAST_LENGTH = {_JFIF: 16, _ADOBE: 14}  # bytes
_TRANSFORM = 15  # where Adobe's segment tells the colours: 1 for YCbCr
_TABLE = 65  # bytes of a quantisation table of 8 bits

# A marker that a length follows, or the end: no stuffed byte, filler or restart.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_LEAST_SCAN = 10  # bytes


class PlainJpeg(NamedTuple):
    """A plain JPEG's header.

    Attributes:
        progressive: whether it is stored in scans that refine one another.
        width: pixels.
        height: pixels.
        components: 1 for grey, 3 for YCbCr.
        has_metadata: whether it has application segments other than JFIF's: EXIF, XMP,
            a colour profile.
    """

    progressive: bool
    width: int
    height: int
    components: int
    has_metadata: bool


def read_plain(jpeg: Jpeg) -> PlainJpeg | None:
    """Walk over a JPEG's header, 7 us; ``None`` where it is not plain."""
    if jpeg[:3] != _BEGIN:
        return None
    place, frame, jfif = 2, (0, 0), False
    tables: set[int] = set()
    applications: dict[int, tuple[int, int]] = {}
    try:
        while True:
            begin, marker, length = _SEGMENT.unpack_from(jpeg, place)
            if begin != 0xFF or length < 2:
                return None
            if marker in _TABLES:
                if marker == _QUANTISATION and not _is_of_8_bits(jpeg, place, length):
                    return None
                tables.add(marker)
            elif marker == _JFIF and _holds(jpeg, (place, length), b"JFIF\0"):
                jfif = True
            elif marker in _APPLICATION:
                applications[marker] = place, length
            elif marker == _SCAN:
                break
            elif marker in (_BASELINE, _PROGRESSIVE) and not frame[0]:
                frame = place, length
            else:
                return None
            place += 2 + length
        if frame[0] and tables >= {_HUFFMAN, _QUANTISATION}:
            header = _header(jpeg, place, frame, bool(applications))
            colour = header is not None and header.components == 3
            adobe = applications.get(_ADOBE)
            if not colour or _is_ycbcr(jpeg, frame[0], jfif, adobe):
                return header
    except (struct.error, IndexError):  # it ends too early
        pass
    return None


def _is_of_8_bits(jpeg: Jpeg, place: int, length: int) -> bool:
    """Whether a segment holds whole quantisation tables, and none of 16 bits."""
    first, rest = place + 4, (length - 2) % _TABLE
    return not rest and all(
        jpeg[number] < 4 for number in range(first, place + 2 + length, _TABLE)
    )


def _header(
    jpeg: Jpeg, scan: int, frame: tuple[int, int], has_metadata: bool
) -> PlainJpeg | None:
    """The header, if its frame and first scan are those of a plain JPEG.

    Args:
        jpeg: the bytes.
        scan: where the segment of the first scan begins.
        frame: where the frame's segment begins, and its length.
        has_metadata: as in ``PlainJpeg``.
    """
    place, length = frame
    progressive = jpeg[place + 1] == _PROGRESSIVE
    bits, height, width, components = _FRAME.unpack_from(jpeg, place + 4)
    if bits != 8 or not height or not width or length != 8 + 3 * components:
        return None
    if components == 3:
        sampling = [jpeg[place + 11 + 3 * number] for number in range(3)]
        if sampling[0] not in _SAMPLINGS or sampling[1:] != [0x11, 0x11]:
            return None
    elif components != 1:
        return None
    if not progressive and jpeg[scan + 4] != components:  # in several scans
        return None
    return PlainJpeg(progressive, width, height, components, has_metadata)


def _holds(jpeg: Jpeg, segment: tuple[int, int], begin: bytes) -> bool:
    """Whether an application segment begins with a word, and is as long as libjpeg's.

    That takes no shorter one for what it says.
    """
    place, length = segment
    least = _LEAST_LENGTH[jpeg[place + 1]]
    return length >= least and jpeg[place + 4 : place + 4 + len(begin)] == begin


def _is_ycbcr(
    jpeg: Jpeg, frame: int, jfif: bool, adobe: tuple[int, int] | None
) -> bool:
    """Whether no reader can take the three components for RGB."""
    if adobe is not None:
        return _holds(jpeg, adobe, b"Adobe") and jpeg[adobe[0] + _TRANSFORM] == 1
    names = bytes(jpeg[frame + 10 : frame + 19 : 3])
    return names != b"RGB" if jfif else names == b"\1\2\3"


def check_bounds(jpeg: Jpeg, height: int, width: int) -> None:
    """Let nothing be decoded that would take too much memory or time.

    Args:
        jpeg: the bytes.
        height: of the image, or more, pixels.
        width: the same.

    Raises:
        ValueError: it has more than ``MOST_PIXELS``, or its scans go over more than
            ``MOST_SCANNED``.
    """
    pixels = height * width
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"the image has {width}x{height} pixels, more than {MOST_PIXELS:,}"
        )
    if len(jpeg) * pixels <= MOST_SCANNED * _LEAST_SCAN:
        return
    plain = read_plain(jpeg)
    if plain is not None and not plain.progressive:
        return
    scans = count_scans(jpeg)
    if scans * pixels > MOST_SCANNED:
        raise ValueError(
            f"its {scans:,} scans of {width}x{height} pixels would take too long to "
            f"decode: together they may have {MOST_SCANNED:,} pixels"
        )


def is_plain(jpeg: Jpeg, shape: tuple[int, int] | None = None) -> bool:
    """Whether a JPEG is plain by its structure, and none takes long to decode it.

    All decoders make the same of a whole plain JPEG. Its entropy-coded data are not
    looked at: of damage in there each makes what it will, or an error.

    Args:
        jpeg: the bytes.
        shape: the height and width that it must have, pixels; any by default.
    """
    plain = read_plain(jpeg)
    if plain is None or shape not in (None, (plain.height, plain.width)):
        return False
    try:
        check_bounds(jpeg, plain.height, plain.width)
    except ValueError:
        return False
    return True


def count_scans(jpeg: Jpeg) -> int:
    """The scans of a JPEG, up to its end."""
    place, scans = 2, 0
    while found := _MARKER.search(jpeg, place):
        marker, place = jpeg[found.end() - 1], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        place += max(2, int.from_bytes(jpeg[place : place + 2], "big"))
    return scans
