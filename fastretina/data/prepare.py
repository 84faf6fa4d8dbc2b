"""From a source file's bytes to the JPEG that goes into a shard, or to why it can't.

Every image is decoded in full, strictly: a truncated one raises in any decoder, but a
JPEG with damaged bytes in its middle decodes without complaint in most of them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from loaders.arrays import UInt8
from loaders.decode import describe_failure

QUALITY = 95
_ORIENTATION = 0x0112
_SMALLEST = 8  # pixels; a smaller image is an icon or a mistake
_KINDS = ("PNG", "TIFF", "WEBP")
_MODES = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
    | {"I;16", "I;16B", "I;16L"}
)
_BITS_PER_SAMPLE = 258  # a TIFF's tag
_DIM = 16  # of the upper 8 of 16 bits: below it all values fit into 12
_LARGEST = 178_956_970  # pixels in all, Pillow's own limit: damage may claim 65,535^2

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
        change: why it was encoded again: ``upright`` (EXIF orientation), ``from png``,
            ``from tiff``, ``from webp``, ``preprocessed``, or empty.
        components: of the JPEG: 1 for grey, 4 for CMYK, 3 for all others.
    """

    jpeg: bytes
    width: int
    height: int
    change: str
    components: int = 3


# Of a JPEG, by simplejpeg's name of its colours.
_COMPONENTS = {"Gray": 1, "CMYK": 4, "YCCK": 4}


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
        with _rejecting(content):
            if not content:
                raise Rejected("the file is empty")
            if content.startswith(b"\xff\xd8"):
                height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content)
                _check_size(height, width)
                turned = orientation(content) != 1
                if not (turned or self._steps or self._resizes(height, width)):
                    self._check(content, height, width, colorspace)
                    components = _COMPONENTS.get(colorspace, 3)
                    return Prepared(content, width, height, "", components)
                image = self._decode(content, height, width, colorspace)
                image, change = (_turned(content), "upright") if turned else (image, "")
            else:
                image, change = _decode_other(content)
            return self._encoded(image, change)

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
        else:
            self._decode(jpeg, height, width, colorspace)

    def _decode(self, jpeg: bytes, height: int, width: int, colorspace: str) -> UInt8:
        """uint8[H, W, 3], as the loaders see it."""
        if colorspace in ("CMYK", "YCCK"):  # the loaders leave these to Pillow too
            simplejpeg.decode_jpeg(jpeg, colorspace="CMYK")  # but it isn't strict
            with _opened(jpeg) as image:
                return np.asarray(image.convert("RGB"))
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
    except UnidentifiedImageError as bad:  # its text holds an address
        raise Rejected("the file is no image that can be read") from bad
    except Exception as bad:
        reason = str(bad)
        if content.startswith(b"\xff\xd8"):
            reason = describe_failure(bad, content)  # as the loaders would say it
        raise Rejected(" ".join(reason.split()) or type(bad).__name__) from bad


def _check_size(height: int, width: int) -> None:
    if min(height, width) < _SMALLEST or height * width > _LARGEST:
        raise Rejected(f"the image has {width}x{height} pixels")


def orientation(jpeg: bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none to be read."""
    if not _has_exif(jpeg):  # Pillow's parser costs 0.1 ms
        return 1
    with _opened(jpeg) as image:
        return _orientation(image)


def _has_exif(jpeg: bytes) -> bool:
    """Whether a segment before the image data is EXIF: 2 us, for most have none."""
    place = 2
    while (marker := jpeg[place : place + 2])[:1] == b"\xff" and marker != b"\xff\xda":
        if marker == b"\xff\xe1" and jpeg[place + 4 : place + 8] == b"Exif":
            return True
        filler = marker == b"\xff\xff"  # any number may stand before a marker
        place += 1 if filler else 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return False


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """An image of Pillow's, without its warnings about broken metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            yield image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block; the photograph itself is not at fault
        return 1
    return value if value in _UNDO else 1


def _turned(jpeg: bytes) -> UInt8:
    with _opened(jpeg) as image:
        return _upright(image)


def _upright(image: Image.Image) -> UInt8:
    image.load()  # first: a TIFF is turned by that, and its orientation with it
    turn = _UNDO.get(_orientation(image))
    rgb = image.convert("RGB")
    return np.asarray(rgb if turn is None else rgb.transpose(turn))


def encode_prepared(image: UInt8) -> bytes:
    """A baseline JPEG of uint8[H, W, 3]: quality 95, chroma in full resolution."""
    jpeg: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=QUALITY, colorsubsampling="444"
    )
    return jpeg


def _decode_other(content: bytes) -> tuple[UInt8, str]:
    """uint8[H, W, 3] of a PNG, TIFF or WebP, and what to call the change to JPEG."""
    with _opened(content) as image:
        kind = image.format or "of no kind"
        if kind not in _KINDS:
            raise Rejected(f"the file is {kind}, none of JPEG, {', '.join(_KINDS)}")
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise Rejected(
                f"the file holds {frames} images, and which is meant is open"
            )
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
