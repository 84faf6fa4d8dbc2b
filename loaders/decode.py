"""Decode one photograph as every loader does: libjpeg-turbo, resize, flip.

    out = np.empty((512, 512, 3), np.uint8)
    Decoder()(jpeg, out)

Importing this module imports no torch; resizing does.
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from functools import lru_cache

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from loaders.arrays import Bool, UInt8
from loaders.base import Jpeg
from loaders.jpeg_structure import check_bounds

# (left-right, upside-down) to OpenCV's flip code.
FLIP_CODE = {(True, False): 1, (False, True): 0, (True, True): -1}
# By twice the one and once the other, as flips @ _FLIP_WEIGHTS are.
_FLIP_CODES = np.array([None, 0, 1, -1], dtype=object)
_FLIP_WEIGHTS = np.array([2, 1], np.int8)

UNIDENTIFIED = "Pillow can't read it"
NO_JPEG = "it is no JPEG"
# What a photograph in a folder may be, in Pillow's names. It is asked for these alone:
# of its others, EPS starts Ghostscript, on a program that the file holds.
IMAGE_KINDS = ("JPEG", "PNG", "TIFF", "WEBP")
_JPEG_ALONE = ("JPEG",)
_BEGIN = b"\xff\xd8"  # of every JPEG
_MARKER = re.compile(r"\b0x(?=[0-9a-f]{2}\b)")  # as libjpeg-turbo writes a byte


class Decoder:
    """Decodes, resizes and flips one image into a given place, as PIL would.

    Bit-identical to ``loaders._pil.decode_with_pillow``, as simplejpeg carries the
    libjpeg-turbo that Pillow does. So is torch's antialiased bilinear resize from 512
    to 128, 224, 256 or 384, at 0.3 ms instead of 1.7; for other sizes its fixed-point
    weights are shorter, and some values differ by 1 or 2 of 255. What libjpeg-turbo
    does not turn into RGB (CMYK) is left to Pillow. Owned by one thread.
    """

    def __init__(self) -> None:
        self._scratch: UInt8 = np.empty(0, np.uint8)
        self._fits = True  # the last image had the size of its place

    def __call__(
        self,
        jpeg: Jpeg,
        out: UInt8,
        flip: int | None = None,
    ) -> None:
        """Decode ``jpeg`` into ``out``, uint8[H, W, 3] RGB, contiguous.

        Args:
            jpeg: the bytes of one image.
            out: filled with the image, resized where it has another size.
            flip: how to mirror it; one of ``FLIP_CODE``'s values.

        Raises:
            ValueError: it is truncated, corrupt, no JPEG, or beyond the bounds of
                ``jpeg_structure.check_bounds``.
        """
        # By its own header, 1 us: an index may lie, and CMYK as RGB has other colours.
        if simplejpeg.decode_jpeg_header(jpeg)[2] in ("CMYK", "YCCK"):
            image = np.array(read_with_pillow(jpeg))
        else:
            image = self._decode(jpeg, out)
        if image is not out:
            fits = image.shape == out.shape
            np.copyto(out, image if fits else resize(image, out.shape[:2]))
        if flip is not None:
            flip_in_place(out, flip)

    def _decode(self, jpeg: Jpeg, out: UInt8) -> UInt8:
        """The image in its own size, which is ``out`` where it has the size of that."""
        if self._fits:
            try:
                check_bounds(jpeg, *out.shape[:2])  # a larger one has no room there
                image = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=out)
                if image.shape == out.shape:
                    return out
            except ValueError:  # what is wrong is found again below, if anything is
                pass
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
        check_bounds(jpeg, height, width)
        if self._scratch.size < height * width * 3:
            self._scratch = np.empty(height * width * 3, np.uint8)
        image = simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=self._scratch)
        self._fits = image.shape == out.shape
        decoded: UInt8 = image
        return decoded


def read_with_pillow(jpeg: Jpeg) -> Image.Image:
    """A JPEG in RGB, decoded by Pillow, which is asked for no other kind.

    Raises:
        ValueError: Pillow can't, it is no JPEG, or it is beyond the bounds of
            ``check_bounds``.
    """
    if bytes(jpeg[:2]) != _BEGIN:
        raise ValueError(NO_JPEG)
    try:
        image = Image.open(io.BytesIO(jpeg), formats=_JPEG_ALONE)
        check_bounds(jpeg, image.height, image.width)
        return image.convert("RGB")
    except UnidentifiedImageError as error:  # its text holds an object's address
        raise ValueError(UNIDENTIFIED) from error
    except MemoryError:
        raise
    except Exception as error:  # of many kinds, with no common base, for rubbish
        raise ValueError(str(error) or type(error).__name__) from error


def describe_failure(error: Exception, jpeg: Jpeg) -> str:
    """Why an image can't be decoded, in the same words whichever decoder failed on it.

    libjpeg-turbo's, where it fails, too.

    Args:
        error: what the decoder raised.
        jpeg: the bytes of the image.
    """
    if not len(jpeg):
        return "it is empty"
    if bytes(jpeg[:2]) != _BEGIN:
        return NO_JPEG
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError:  # its text is of chroma subsampling, whatever is wrong
        return "its JPEG header can't be read"
    try:
        with suppress(MemoryError):  # of a header that lies: the first reason stands
            check_bounds(jpeg, height, width)
            cmyk = colorspace in ("CMYK", "YCCK")
            simplejpeg.decode_jpeg(jpeg, colorspace="CMYK" if cmyk else "RGB")
    except ValueError as strict:
        return _MARKER.sub("", str(strict))
    if isinstance(error, UnidentifiedImageError):
        return UNIDENTIFIED
    return _MARKER.sub("", str(error))


def describe_unreadable(error: Exception, content: bytes) -> str:
    """Why a photograph of any kind that is taken can't be decoded, in one line.

    Args:
        error: what its decoder raised.
        content: the bytes of the file.
    """
    if content.startswith(_BEGIN):
        reason = describe_failure(error, content)  # as the loaders would say it
    elif isinstance(error, UnidentifiedImageError):  # its text holds an address
        reason = "the file is no JPEG, PNG, TIFF or WebP that can be read"
    else:
        reason = str(error)
    return " ".join(reason.split()) or type(error).__name__


def flip_codes(flips: Bool) -> list[int | None]:
    """OpenCV's flip code of each image of a batch, whose ``Plan.flips`` these are."""
    codes: list[int | None] = _FLIP_CODES[flips.view(np.int8) @ _FLIP_WEIGHTS].tolist()
    return codes


def resize(image: UInt8, shape: tuple[int, int]) -> UInt8:
    """Resize uint8[h, w, 3] to uint8[H, W, 3], antialiased bilinear as Pillow's."""
    import torch

    bchw = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        bchw, size=shape, mode="bilinear", antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def flip_in_place(image: UInt8, code: int) -> None:
    """Mirror uint8[H, W, C] where it lies, which is still in the cache: 0.01 ms.

    From a scratch image to its place it took 0.1 ms, as both don't fit in the cache.

    Args:
        image: mirrored.
        code: 1 for left-right, 0 for upside-down, -1 for both, as in ``cv2.flip``.
    """
    if _cv2_flips_in_place():
        cv2.flip(image, code, image)  # by keyword it takes 0.7 us more
    else:
        np.copyto(image, cv2.flip(image, code))


@lru_cache(maxsize=1)
def _cv2_flips_in_place() -> bool:
    """Whether this build of OpenCV flips in place; those known do, unpromised."""
    for shape in ((33, 70, 3), (32, 64, 3)):
        image = np.arange(np.prod(shape), dtype=np.uint32).astype(np.uint8)
        for code in FLIP_CODE.values():
            flipped = image.reshape(shape).copy()
            cv2.flip(flipped, code, dst=flipped)
            if not np.array_equal(flipped, cv2.flip(image.reshape(shape), code)):
                return False
    return True
