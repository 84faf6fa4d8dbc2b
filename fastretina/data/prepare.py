"""From a source file's bytes to the JPEG that goes into a shard, or to why it can't.

Every image is decoded in full, strictly: a truncated one raises in any decoder, but a
JPEG with damaged bytes in its middle decodes without complaint in most of them. What
decoders don't agree on is decoded by Pillow and written anew, so that all loaders
make the same of what is in a shard: a JPEG that is not plain
(``loaders.jpeg_structure``), or whose metadata contradict each other on what is up.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from loaders.arrays import UInt8
from loaders.decode import IMAGE_KINDS, describe_unreadable
from loaders.jpeg_structure import MOST_PIXELS, PlainJpeg, check_bounds, read_plain

QUALITY = 95
_ORIENTATION = 0x0112
_EXIF_HEADER = 6  # bytes, "Exif" and two more
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")
_SMALLEST = 8  # pixels; a smaller image is an icon or a mistake
_MODES = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
    | {"I;16", "I;16B", "I;16L"}
)
_BITS_PER_SAMPLE = 258  # a TIFF's tag
_DIM = 16  # of the upper 8 of 16 bits: below it all values fit into 12
_MUCH = 50_000_000  # pixels that may be too many for a machine's memory

# Pillow's names for what undoes an EXIF orientation; ImageOps.exif_transpose also
# writes the EXIF block anew and fails where another tag of it is broken.
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Rejected(Exception):
    """An image that cannot go into a shard; the text is the reason."""


class Prepared(NamedTuple):
    """An image ready for its shard.

    Attributes:
        jpeg: its bytes, as they were unless ``change`` says otherwise.
        width: pixels.
        height: pixels.
        change: why it was encoded again: ``upright`` (EXIF or XMP orientation),
            ``normalised`` (a JPEG that decoders don't agree on), ``from png``, ``from
            tiff``, ``from webp``, ``preprocessed``, or empty.
        components: of the JPEG: 1 for grey, 3 for colours.
    """

    jpeg: bytes
    width: int
    height: int
    change: str
    components: int = 3


class Preparer:
    """Checks and prepares one image after the other; keeps a scratch image.

    Args:
        steps: some of ``preprocess_steps.STEPS``.
        size: pixels square, or ``None``.
    """

    def __init__(self, steps: Sequence[str] = (), size: int | None = None) -> None:
        self._steps = tuple(steps)
        self._size = size
        self._scratch: UInt8 = np.empty(0, np.uint8)

    def __call__(self, content: bytes) -> Prepared:
        """Prepare one image.

        Raises:
            Rejected: it can't be decoded in full, or is of no kind that we take.
        """
        if not content:
            raise Rejected("the file is empty")
        with _rejecting(content):
            try:
                if content.startswith(b"\xff\xd8"):
                    return self._prepare_jpeg(content)
                return self._encoded(*_decode_other(content))
            except MemoryError:
                _reject_much(content)
                raise

    def _prepare_jpeg(self, content: bytes) -> Prepared:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(height, width)
        check_bounds(content, height, width)
        plain = read_plain(content)
        up, is_clear = _read_orientation(content, plain)
        turned = up != 1
        if plain is None or turned or not is_clear:
            self._check(content, height, width, colorspace)
            with _opened(content) as image:
                pixels = _turned(image, up)
            return self._encoded(pixels, "upright" if turned else "normalised")
        if self._steps or self._resizes(height, width):
            return self._encoded(self._decode(content, height, width), "")
        self._check(content, height, width, colorspace)
        return Prepared(content, width, height, "", plain.components)

    def _resizes(self, height: int, width: int) -> bool:
        return self._size is not None and (height, width) != (self._size, self._size)

    def _check(self, jpeg: bytes, height: int, width: int, colorspace: str) -> None:
        """Decode every bit of the image, strictly, but look at its brightness alone.

        The entropy decoder, where damage shows, runs over all components; turning
        chroma into colour, a quarter of the time, has nothing left to find.
        """
        if colorspace in ("YCbCr", "Gray"):
            room = self._room(height, width, 1)
            simplejpeg.decode_jpeg(jpeg, colorspace="GRAY", buffer=room)
        elif colorspace in ("CMYK", "YCCK"):
            simplejpeg.decode_jpeg(jpeg, colorspace="CMYK")
        else:
            self._decode(jpeg, height, width)

    def _decode(self, jpeg: bytes, height: int, width: int) -> UInt8:
        """uint8[H, W, 3], as the loaders see it."""
        room = self._room(height, width, 3)
        simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=room)
        return room

    def _room(self, height: int, width: int, channels: int) -> UInt8:
        if self._scratch.shape != (height, width, channels):
            self._scratch = np.empty((height, width, channels), np.uint8)
        return self._scratch

    def _encoded(self, image: UInt8, change: str) -> Prepared:
        """Pre-process what is to be, and encode the result."""
        _check_size(*image.shape[:2])
        if self._steps or self._resizes(*image.shape[:2]):
            from fastretina.data.preprocess import (
                preprocess,  # OpenCV only where needed
            )

            image, change = preprocess(image, self._steps, self._size), "preprocessed"
        height, width = image.shape[:2]
        return Prepared(encode_prepared(image), width, height, change)


@contextmanager
def _rejecting(content: bytes) -> Iterator[None]:
    """Turn what decoders raise on rubbish, which has no common base, into Rejected."""
    try:
        yield
    except (Rejected, MemoryError):
        raise
    except Exception as bad:
        raise Rejected(describe_unreadable(bad, content)) from bad


def _check_size(height: int, width: int) -> None:
    if min(height, width) < _SMALLEST or height * width > MOST_PIXELS:
        raise Rejected(f"the image has {width}x{height} pixels")


def _reject_much(content: bytes) -> None:
    """Blame a lack of memory on an image that needs much; on others it is no blame."""
    with _opened(content) as image:
        width, height = image.size
    if width * height > _MUCH:
        raise Rejected(f"{width}x{height} pixels take more memory than there is")


def is_kept(jpeg: bytes) -> bool:
    """Whether sharding would keep a JPEG's bytes, if it finds no damage in them.

    Raises:
        Rejected: it would not take the JPEG at all.
    """
    with _rejecting(jpeg):
        plain = read_plain(jpeg)
        if plain is None:
            return False
        check_bounds(jpeg, plain.height, plain.width)
        return _read_orientation(jpeg, plain) == (1, True)


class _Orientation(NamedTuple):
    """Which way up a JPEG's metadata say that it is.

    Attributes:
        value: 1 (upright) to 8; 1 where none says anything.
        is_clear: whether all that say anything say the same.
    """

    value: int
    is_clear: bool


def _read_orientation(jpeg: bytes, plain: PlainJpeg | None) -> _Orientation:
    """Read it by Pillow, which takes 0.1 ms, where there are any metadata.

    Raises:
        Exception: of many kinds; Pillow can't open the JPEG.
    """
    if plain is not None and not plain.has_metadata:
        return _Orientation(1, True)
    with _opened(jpeg) as image:
        _check_size(image.height, image.width)
        segments = getattr(image, "applist", ())
    return _by_segments([body for name, body in segments if name == "APP1"])


def _by_segments(segments: Sequence[bytes]) -> _Orientation:
    """Each EXIF segment counts, and after them XMP's; the first of them is believed.

    Pillow reads the first EXIF alone, others the last.
    """
    values: list[object] = []
    for body in segments:
        if body[:4].lower() == b"exif":
            values.append(_exif_orientation(body[_EXIF_HEADER:]))
    for body in segments:
        if body.startswith(_XMP):
            values += map(int, _XMP_ORIENTATION.findall(body))
    known = [n for n in values if isinstance(n, int) and (n == 1 or n in _UNDO)]
    return _Orientation(known[0] if known else 1, len(set(known)) < 2)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """An image of Pillow's, without its warnings about broken metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content), formats=IMAGE_KINDS) as image:
            yield image


def _exif_orientation(block: bytes) -> object:
    try:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + block)
        return exif.get(_ORIENTATION)
    except Exception:  # a broken EXIF block; the photograph itself is not at fault
        return None


def _orientation(image: Image.Image) -> int:
    """Which way up an image of another kind is."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in _UNDO else 1


def _turned(image: Image.Image, orientation: int) -> UInt8:
    """uint8[H, W, 3], RGB, turned by what undoes an orientation."""
    turn = _UNDO.get(orientation)
    rgb = image.convert("RGB")
    return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _upright(image: Image.Image) -> UInt8:
    image.load()  # first: a TIFF is turned by that, and its orientation with it
    return _turned(image, _orientation(image))


def encode_prepared(image: UInt8) -> bytes:
    """A baseline JPEG of uint8[H, W, 3]: quality 95, chroma in full resolution."""
    jpeg: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=QUALITY, colorsubsampling="444"
    )
    return jpeg


def _decode_other(content: bytes) -> tuple[UInt8, str]:
    """uint8[H, W, 3] of a PNG, TIFF or WebP, and what to call the change to JPEG."""
    with _opened(content) as image:
        kind = image.format or "image"
        # Not counted: of 110,000 in a TIFF of 12 MB, that takes Pillow a minute.
        if getattr(image, "is_animated", False):
            raise Rejected("the file holds several images, and which is meant is open")
        _check_size(image.height, image.width)
        bits = _bits(image, content)
        if image.mode not in _MODES or bits not in (1, 2, 4, 8, 16):
            raise Rejected(f"a {kind} of {bits} bits in mode {image.mode}, not 8 or 16")
        if bits == 16:
            return _upper_bits(image), f"from {kind.lower()}"
        return _upright(image), f"from {kind.lower()}"


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits of a channel: Pillow shows colours of 16 bits as if they had 8."""
    if image.format == "PNG":
        return content[24]  # of IHDR, the first chunk
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    return int(max(tags.get(_BITS_PER_SAMPLE, (8,))))


def _upper_bits(image: Image.Image) -> UInt8:
    """The upper 8 of 16 bits.

    Raises:
        Rejected: they hold next to nothing, as those of a 12-bit camera's values that
            were not scaled up; brightening them would be a guess.
    """
    if image.mode.startswith("I;16"):
        image.load()
        grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if (orientation := _orientation(image)) in _UNDO:
            grey = grey.transpose(_UNDO[orientation])
        upper = np.asarray(grey.convert("RGB"))
    else:
        upper = _upright(image)  # Pillow takes the upper bits itself
    if upper.max() < _DIM:
        raise Rejected(
            f"16 bits per channel, but no value above {_DIM * 256 - 1:,} of 65,535: "
            "fewer bits that were not scaled up"
        )
    return upper
