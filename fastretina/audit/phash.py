"""What a photograph looks like, small: enough to find it again after it was changed.

All fundus photographs look alike to a coarse hash: a lit disc, a bright spot, arcs. So
what is compared here is detail of the size of vessels, inside the disc alone, by its
sign: that neither exposure nor the disc's rim has a say.

    thumbnail    uint8[96, 96], grey and upright
    signs        the perceptual hash: 256 signs, for a search among all pairs
    detail       int8[96, 96], finer, for a second look at few pairs
    agreement    that look: the correlation of two details, aligned
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from fastretina.data.prepare import Preparer, is_kept
from fastretina.data.preprocess import BORDER
from loaders.arrays import Float32, UInt8

Int8 = npt.NDArray[np.int8]

SIDE, GRID = 96, 16
# The hash forgives a crop by 3 % of the width, which moves the outermost of 96 pixels
# by 1.5; a view that is zoomed by 4 % is as close to crops by 1 to 7 %.
ZOOM = 1.04

_COARSE = (1.1, 3.2, 2)  # sigmas of the detail in the hash, and the margin, in pixels
_FINE = (0.8, 3.0, 3)  # sigmas and margin of the fine detail, in pixels
_WIDE = 8.0  # sigma, pixels, of the neighbourhood whose contrast is made equal
_FAINT = 0.3  # grey values: contrast below is noise
_MOST = 3.0  # times the local contrast, which one lesion may have
_STEPS = 40  # of a detail's int8 to the local contrast
_INNER = 0.8  # of the width, that is looked for in the other image
_SCALES = (1.0, 1.03, 0.97, 1.06, 0.94)

Turn = Callable[[Int8], Int8]
# The ways to turn the last two axes of an array. Each undoes itself, or another here
# does, so that a pair of images is found from either of them.
TURNS: dict[str, Turn] = {
    "as it is": lambda image: image,
    "mirrored": lambda image: image[..., ::-1],
    "upside down": lambda image: image[..., ::-1, ::-1],
    "mirrored, upside down": lambda image: image[..., ::-1, :],
    "turned by 90 degrees": lambda image: image.swapaxes(-1, -2)[..., ::-1],
    "turned by 270 degrees": lambda image: image.swapaxes(-1, -2)[..., ::-1, :],
    "transposed": lambda image: image.swapaxes(-1, -2),
    "transposed, upside down": lambda image: image.swapaxes(-1, -2)[..., ::-1, ::-1],
}


def as_jpeg(content: bytes) -> bytes:
    """A photograph as sharding would keep it, but for the check of every bit.

    Raises:
        Rejected: it can't be decoded.
    """
    if content.startswith(b"\xff\xd8") and is_kept(content):
        return content
    return Preparer()(content).jpeg


def thumbnail(jpeg: bytes) -> UInt8:
    """uint8[96, 96], grey: libjpeg decodes no more than it must, but every byte.

    Raises:
        ValueError: it can't be decoded in full.
    """
    grey = simplejpeg.decode_jpeg(
        jpeg, colorspace="GRAY", min_height=SIDE, min_width=SIDE, min_factor=2
    )
    small = cv2.resize(grey[..., 0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def signs(grey: UInt8) -> Int8:
    """The perceptual hash, int8[16, 16]: brighter than around it, darker, 0 outside."""
    coarse = _detail(grey, *_COARSE)
    cells = cv2.resize(coarse, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.sign(cells).astype(np.int8)


def zoomed(grey: UInt8) -> UInt8:
    """The middle of a thumbnail, enlarged to its size: as if more had been cropped."""
    centre = (SIDE - 1) / 2
    shift = centre * (1 - 1 / ZOOM)
    matrix = np.array([[1 / ZOOM, 0, shift], [0, 1 / ZOOM, shift]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = cv2.warpAffine(grey, matrix, (SIDE, SIDE), flags=how)
    return enlarged.astype(np.uint8, copy=False)


def detail(grey: UInt8) -> Int8:
    """The fine detail of a thumbnail, int8[96, 96]; of a turned one it is turned."""
    return np.rint(_STEPS * _detail(grey, *_FINE)).astype(np.int8)


def agreement(one: Int8, other: Int8) -> float:
    """Correlation of the fine detail of two thumbnails, aligned: -1 to 1.

    The inner part of one is looked for in the other, at five scales: 0.4 ms.
    """
    a, b = (np.ascontiguousarray(each, np.float32) for each in (one, other))
    edge = round(SIDE * (1 - _INNER) / 2)
    inner = a[edge:-edge, edge:-edge]
    if not inner.any():  # nothing to be seen
        return 0.0
    correlations = (
        cv2.matchTemplate(_scaled(b, scale), inner, cv2.TM_CCOEFF_NORMED).max()
        for scale in _SCALES
    )
    return float(max(correlations))


def _scaled(image: Float32, scale: float) -> Float32:
    """Enlarge float32[96, 96] around its middle, by a factor; outside is 0."""
    if scale == 1:
        return image
    centre = (SIDE - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), 0, scale)
    return _float32(cv2.warpAffine(image, matrix, (SIDE, SIDE)))


def _detail(grey: UInt8, fine: float, coarse: float, margin: int) -> Float32:
    """Detail between two sizes, of equal contrast all over the fundus; 0 outside.

    Means are taken over what is lit alone: otherwise the rim would be the strongest
    detail of all, and it is the same in all photographs of a camera.
    """
    pixels = grey.astype(np.float32)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1,) * 2)
    lit = cv2.erode((grey > BORDER).astype(np.uint8), disc).astype(np.float32)

    def mean(values: Float32, sigma: float) -> Float32:
        total = cv2.GaussianBlur(values * lit, (0, 0), sigma)
        weight = cv2.GaussianBlur(lit, (0, 0), sigma)
        return _float32(total / np.maximum(weight, 1e-3))

    band = (mean(pixels, fine) - mean(pixels, coarse)) * lit
    contrast = np.sqrt(mean(band * band, _WIDE))
    return _float32(np.clip(band / (contrast + _FAINT), -_MOST, _MOST) * lit)


def _float32(values: npt.NDArray[Any]) -> Float32:
    return values.astype(np.float32, copy=False)
