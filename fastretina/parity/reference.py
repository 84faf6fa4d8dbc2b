"""Plain PIL on the image folder: what every loader is held against.

It shares no line with the loaders or with sharding but the pre-processing itself, so a
mistake of theirs is not repeated here. What a decoder in a hurry would have made of a
photograph is asked of libjpeg-turbo, by simplejpeg as in the loader turbo: that only
names a difference which is found already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from fastretina.data.preprocess import preprocess
from loaders.arrays import UInt8
from loaders.errors import DataError

_ORIENTATION = 0x0112
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
        encoded_again: whether sharding can't have kept its bytes: it is no JPEG, was
            not upright, or is pre-processed.
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
        """
        try:
            with Image.open(path) as image:
                kept = _is_jpeg(path) and _orientation(image) == 1
                pixels = _upright(image)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as bad:
            raise ParityError(f"{path} can't be decoded by Pillow: {bad}") from bad
        changes = bool(self.steps) or self._resizes(pixels)
        return Original(self._finish(pixels), changes or not kept)

    def decode_otherwise(
        self, path: Path, *, nearest_chroma: bool, fast_dct: bool
    ) -> UInt8 | None:
        """The photograph as a decoder in a hurry gives it, uint8[H, W, 3].

        ``None`` where it is no JPEG in YCbCr, the only kind that decoders differ on.
        """
        content = path.read_bytes()
        if not content.startswith(b"\xff\xd8"):
            return None
        if simplejpeg.decode_jpeg_header(content)[2] != "YCbCr":
            return None
        pixels = simplejpeg.decode_jpeg(
            content, colorspace="RGB", fastupsample=nearest_chroma, fastdct=fast_dct
        )
        with Image.open(path) as image:
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


def _is_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\xff\xd8"


def _upright(image: Image.Image) -> UInt8:
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode.startswith("I;16"):  # Pillow would clip it; of colours it takes these
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        pixels = np.repeat(upper[..., None], 3, axis=2)
    else:
        pixels = np.asarray(image.convert("RGB"))
    return pixels if turn is None else turn(pixels)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none, or the EXIF block is broken."""
    # Pillow also looks for one in XMP; a JPEG without EXIF is taken as it lies.
    if image.format != "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # rubbish can break its parser in any way
        return 1
    return value if value in _UPRIGHT else 1
