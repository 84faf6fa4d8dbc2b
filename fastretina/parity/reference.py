"""Plain PIL on the image folder: what every loader is held against.

It shares no line with the loaders or with sharding but the pre-processing itself, so a
mistake of theirs is not repeated here, and the walk that tells which JPEGs are plain:
only of those sharding keeps the bytes. What a decoder in a hurry would have made of a
photograph is asked of libjpeg-turbo, by simplejpeg as in the loader turbo: that only
names a difference which is found already.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from fastretina.data.preprocess import preprocess
from loaders.arrays import UInt8
from loaders.decode import IMAGE_KINDS, describe_unreadable
from loaders.errors import DataError
from loaders.jpeg_structure import MOST_PHOTOGRAPH, check_bounds, is_plain
from loaders.untrusted import read_file

_ORIENTATION = 0x0112
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
# What undoes each EXIF orientation: by NumPy, where sharding does it by Pillow.
_UPRIGHT: Mapping[int, Callable[[UInt8], UInt8]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}


class ParityError(DataError):
    """A comparison that can't be made, or that has found a difference."""


class Original(NamedTuple):
    """A photograph as it should be delivered.

    Attributes:
        pixels: uint8[H, W, 3], RGB.
        encoded_again: whether sharding can't have kept its bytes: it is no plain JPEG,
            was not upright, or is pre-processed.
    """

    pixels: UInt8
    encoded_again: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PilReference:
    """Decodes photographs with Pillow alone. Thread-safe.

    Attributes:
        steps: those of ``preprocess_steps.STEPS`` that sharding has applied.
        size: pixels square that sharding has resized to, or ``None``.
        image_size: pixels square that the loader resizes to, or ``None``.
    """

    steps: tuple[str, ...] = ()
    size: int | None = None
    image_size: int | None = None

    def __call__(self, path: Path) -> Original:
        """Decode one photograph.

        Raises:
            ParityError: Pillow can't.
            OSError: the file can't be read.
        """
        content = read_file(path, MOST_PHOTOGRAPH)
        try:
            with Image.open(io.BytesIO(content), formats=IMAGE_KINDS) as image:
                check_bounds(content, image.height, image.width)
                kept = is_plain(content) and set(_orientations(image)) <= {1}
                pixels = _upright(image)
        except Exception as bad:  # of many kinds, with no common base, for rubbish
            reason = describe_unreadable(bad, content)
            raise ParityError(f"{path} can't be decoded by Pillow: {reason}") from bad
        changes = bool(self.steps) or self._resizes(pixels)
        return Original(self._finish(pixels), changes or not kept)

    def decode_otherwise(
        self, path: Path, *, nearest_chroma: bool, fast_dct: bool
    ) -> UInt8 | None:
        """The photograph as a decoder in a hurry gives it, uint8[H, W, 3].

        ``None`` where it is no JPEG in YCbCr, the only kind that decoders differ on.
        """
        content = read_file(path, MOST_PHOTOGRAPH)
        if not is_plain(content) or simplejpeg.decode_jpeg_header(content)[2] == "Gray":
            return None
        pixels = simplejpeg.decode_jpeg(
            content, colorspace="RGB", fastupsample=nearest_chroma, fastdct=fast_dct
        )
        with Image.open(io.BytesIO(content), formats=IMAGE_KINDS) as image:
            turn = _UPRIGHT.get(_orientation(image))
        return self._finish(pixels if turn is None else turn(pixels))

    def _resizes(self, pixels: UInt8) -> bool:
        return self.size is not None and pixels.shape[:2] != (self.size, self.size)

    def _finish(self, pixels: UInt8) -> UInt8:
        """What sharding and the loader were asked to do with the decoded image."""
        pixels = np.ascontiguousarray(pixels)
        if self.steps or self._resizes(pixels):
            pixels = preprocess(pixels, self.steps, self.size)
        wanted = self.image_size
        if wanted is None or pixels.shape[:2] == (wanted, wanted):
            return pixels
        image = Image.fromarray(pixels)
        return np.asarray(image.resize((wanted, wanted), Image.Resampling.BILINEAR))


def _upright(image: Image.Image) -> UInt8:
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode.startswith("I;16"):  # Pillow would clip it; of colours it takes these
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        pixels = np.repeat(upper[..., None], 3, axis=2)
    else:
        pixels = np.asarray(image.convert("RGB"))
    return pixels if turn is None else turn(pixels)


def _orientation(image: Image.Image) -> int:
    """The first that the metadata tell; 1 where none does, or they are broken."""
    return next(iter(_orientations(image)), 1)


def _orientations(image: Image.Image) -> list[int]:
    """All orientations that the metadata tell, in order: EXIF segments', then XMP's."""
    if not isinstance(image, JpegImageFile):
        return _known(image.getexif)
    found: list[int] = []
    segments = [body for name, body in image.applist if name == "APP1"]
    for body in segments:
        if body[:4].lower() == b"exif":
            found += _known(partial(_exif, body[6:]))
    for body in segments:
        if body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            found += map(int, _IN_XMP.findall(body))
    return found


def _exif(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + block)
    return exif


def _known(read: Callable[[], Image.Exif]) -> list[int]:
    """The orientation of an EXIF block, if there is any that means anything."""
    try:
        value = read().get(_ORIENTATION)
    except Exception:  # rubbish can break its parser in any way
        return []
    return [value] if value in {1, *_UPRIGHT} else []
