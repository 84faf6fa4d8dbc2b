"""What may be done to a photograph once, when it is sharded: crop, CLAHE, Ben Graham.

Each step takes and returns uint8[H, W, 3], RGB. They are deterministic and costly, so
they belong here and not into a loader.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from loaders.arrays import UInt8
from loaders.jpeg_structure import MOST_PIXELS

# Grey value: a photograph's black border is 0 to 10 after JPEG compression, the fundus
# above 15.
BORDER = 12


def preprocess(image: UInt8, steps: Sequence[str], size: int | None) -> UInt8:
    """Apply ``steps`` in their one order, with the resize after the crop.

    Args:
        image: uint8[H, W, 3], RGB.
        steps: some of ``preprocess_steps.STEPS``; their order here changes nothing.
        size: pixels square to resize to; ``None`` keeps the size.

    Returns:
        uint8[H', W', 3], RGB; ``image`` itself is left alone.
    """
    if "crop" in steps:
        image = crop_fundus(image)
    if size is not None and image.shape[:2] != (size, size):
        # Area averaging when shrinking, as bilinear would skip pixels.
        shrinks = min(image.shape[:2]) > size
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        image = _uint8(cv2.resize(image, (size, size), interpolation=how))
    if "clahe" in steps:
        image = equalise(image)
    if "graham" in steps:
        image = subtract_local_mean(image)
    return image


def crop_fundus(image: UInt8) -> UInt8:
    """The square around the fundus, with black where the square leaves the image.

    An image without a fundus stays as it is: one that is all as dark as the border, or
    lit in a spot only, which is a reflection.

    Raises:
        ValueError: the square would have more pixels than are decoded: the image is a
            strip.
    """
    lit = cv2.medianBlur(image.max(axis=2), 5) > BORDER
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    if not len(rows):
        return image
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    side = max(bottom - top, right - left)
    if side < max(8, min(image.shape[:2]) // 4):
        return image
    if side**2 > MOST_PIXELS:
        raise ValueError(f"the square around the fundus has {side}x{side} pixels")
    square = np.zeros((side, side, 3), np.uint8)
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    square[y : y + bottom - top, x : x + right - left] = image[top:bottom, left:right]
    return square


def equalise(image: UInt8) -> UInt8:
    """CLAHE on the luminance alone: clip limit 2, 8 x 8 tiles, as the course report."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
    lab[..., 0] = clahe.apply(lab[..., 0])
    return _uint8(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def subtract_local_mean(image: UInt8) -> UInt8:
    """Ben Graham's normalisation: ``4 (image - local mean) + 128`` inside the fundus.

    The local mean is a Gaussian of 1/30 of the width, as in his winning solution of the
    2015 Kaggle competition; the outer 10 % of the radius is masked grey.
    """
    height, width = image.shape[:2]
    mean = cv2.GaussianBlur(image, (0, 0), width / 30)
    flat = cv2.addWeighted(image, 4, mean, -4, 128)
    mask = np.zeros((height, width, 1), np.uint8)
    centre, radius = (width // 2, height // 2), int(0.9 * max(height, width) / 2)
    cv2.circle(mask, centre, radius, (1,), -1)
    return _uint8(flat * mask + 128 * (1 - mask))


def _uint8(image: npt.NDArray[np.generic]) -> UInt8:
    return image.astype(np.uint8, copy=False)
