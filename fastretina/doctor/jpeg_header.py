"""What a JPEG's frame header says of how it is stored, without decoding it.

libjpeg-turbo's own header call tells size and chroma, but not whether the scans are
progressive, which costs a decoder two to three times the time.
"""

from __future__ import annotations

from dataclasses import dataclass

_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0-7 and SOI: no length follows
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC lie among the SOF markers
_FRAMES = set(range(0xC0, 0xD0)) - _NO_FRAME
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_END, _SCAN = 0xD9, 0xDA
_CHROMA = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
}


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """A JPEG's frame header.

    Attributes:
        frame: the second byte of its SOF marker, 0xC0 for baseline.
        width: pixels.
        height: pixels.
        sampling: horizontal and vertical sampling factor of each component.
    """

    frame: int
    width: int
    height: int
    sampling: tuple[tuple[int, int], ...]

    @property
    def progressive(self) -> bool:
        """Whether it is stored in several scans that refine one another."""
        return self.frame in _PROGRESSIVE

    @property
    def chroma(self) -> str:
        """``4:2:0``, ``4:4:4`` and so on; ``gray`` without colour, or ``other``."""
        if len(self.sampling) < 3:
            return "gray" if len(self.sampling) == 1 else "other"
        (across, down), (chroma_across, chroma_down) = self.sampling[:2]
        if across % chroma_across or down % chroma_down:
            return "other"
        return _CHROMA.get((across // chroma_across, down // chroma_down), "other")


def read_jpeg_header(jpeg: bytes) -> JpegHeader:
    """Parse a JPEG up to its frame header.

    Raises:
        ValueError: there is none before the first scan, or it is cut short.
    """
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError("it does not begin as a JPEG does")
    place = 2
    while True:
        marker, place = _marker(jpeg, place)
        if marker in _STANDALONE:
            continue
        if marker in (_END, _SCAN):
            raise ValueError("it has no frame header before its first scan")
        length = int.from_bytes(jpeg[place : place + 2], "big")
        body = jpeg[place + 2 : place + length]
        if length < 2 or len(body) != length - 2:
            raise ValueError("it is cut short before its frame header")
        if marker in _FRAMES:
            return _frame(marker, body)
        place += length


def _marker(jpeg: bytes, place: int) -> tuple[int, int]:
    """The next marker's second byte, and where its segment begins.

    Any number of 0xFF may come before it, and decoders skip what else lies between.
    """
    place = jpeg.find(b"\xff", place)
    while 0 <= place < len(jpeg) - 1:
        following = jpeg[place + 1]
        if following == 0xFF:
            place += 1
        elif following:
            return following, place + 2
        else:  # a stuffed byte, no marker
            place = jpeg.find(b"\xff", place + 2)
    raise ValueError("it ends before its frame header")


def _frame(marker: int, body: bytes) -> JpegHeader:
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise ValueError("its frame header is cut short")
    factors = [body[7 + 3 * number] for number in range(body[5])]
    sampling = tuple((both >> 4, both & 15) for both in factors)
    if not sampling or any(0 in both for both in sampling):
        raise ValueError("its frame header has no usable sampling factors")
    return JpegHeader(
        frame=marker,
        width=int.from_bytes(body[3:5], "big"),
        height=int.from_bytes(body[1:3], "big"),
        sampling=sampling,
    )
