"""Whether a photograph can be graded at all, asked before anybody trusts its grade.

A network gives a grade to a black image, too. What is measured here is coarse on
purpose: it finds what no grader could use, and leaves poor photographs alone.

The thresholds come from 1,083 real EyePACS photographs of 512 pixels. Of these 9 get a
warning (0.83 %): 4 that are nearly black, 2 cut off or broken half-way, 2 in which no
vessel can be seen, and 1 that is a fundus from edge to edge with no border around it:
the one false alarm, 0.09 %. Also found are the darkest and the brightest original
(means of 3 and 193 of 255). Left alone are two grey red-free ones, the CC0 photograph
that comes with this package, and the 1,200 of ``make demo``.

Found, too, are black, white, noise, landscapes, pages and charts. Of every fifth of the
real ones (217), all are found at a tenth of their brightness or cut to a piece of 5 %,
and 97 % where they are blurred by 3 % of the width. Made thrice as bright, 59 % are:
many are so dim that it does them good.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from fastretina.data.preprocess import BORDER
from loaders.arrays import Bool, UInt8

_SIDE = 256  # pixels that are looked at: the measures must not depend on the camera

# Each with the nearest real photograph on the good side of it, and what is beyond.
_DARKEST = 38  # of 255, the 95th percentile of brightness: 42; beyond, 36, 33, 32, 8
# Levels of green, where vessels are seen, and shares of the fundus above them: 0.22 and
# 0.16 (made-up ones 0.46 and 0.29); beyond, the brightest original has 0.66 of the
# first, the CC0 photograph made thrice as bright 0.36 of the second.
_WHITE = ((240, 0.55), (252, 0.32))
_CORNERS = 80  # of 255, the third-darkest corner: 63; beyond, 114
_LIT = 0.9995  # share of the image: 0.9990; beyond, pieces of a dim retina
_SOLID = 0.8  # share of its convex hull: 0.83; beyond, 0.79 (broken)
_ROUND = 0.65  # share of the circle around it: 0.76; beyond, 0.49 (cut off)
_SMALLEST = 0.25  # side, of the image's shorter one: as preprocess.crop_fundus has it
_REDNESS = 0.7  # red over green or blue, the larger: 0.79; beyond, a leaf or the sky
_SHARPNESS = 0.0135  # contrast of the finest details: 0.017; beyond, 0.012 and 0.004


def gradability(image: UInt8) -> str | None:
    """Why a photograph can't be graded, in one sentence; None where nothing is wrong.

    Takes 4 ms for 512 pixels square and 25 ms for 10 megapixels.

    Args:
        image: uint8[H, W, 3], RGB, as the camera gave it.
    """
    small = _reduced(image)
    brightness = small.max(axis=2)
    bright = float(np.percentile(brightness, 95))
    if bright < _DARKEST:
        return f"too dark: 95 % of its pixels are below {bright:.0f} of 255"
    if reason := _no_fundus(small, brightness):
        return f"no fundus found: {reason}"
    green = small[_lit(brightness)][:, 1]
    for level, most in _WHITE:
        if (share := float((green >= level).mean())) > most:
            return f"blown out: {share:.0%} of the fundus is above {level} of 255"
    if _sharpness(small[..., 1]) < _SHARPNESS:
        return "too blurred: it shows no details"
    return None


def _reduced(image: UInt8) -> UInt8:
    height, width = image.shape[:2]
    factor = _SIDE / max(height, width)
    if factor >= 1:
        return image
    shape = (max(8, round(width * factor)), max(8, round(height * factor)))
    return cv2.resize(image, shape, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _lit(brightness: UInt8) -> Bool:
    lit: Bool = cv2.medianBlur(brightness, 5) > BORDER
    return lit


def _no_fundus(small: UInt8, brightness: UInt8) -> str | None:
    """What speaks against a reddish or grey disc with dark corners around it."""
    side = max(4, round(0.05 * min(brightness.shape)))
    ends = (slice(None, side), slice(-side, None))
    corners = sorted(
        float(np.median(brightness[rows, columns])) for rows in ends for columns in ends
    )
    lit = _lit(brightness)
    if corners[2] > _CORNERS or lit.mean() > _LIT:
        return "there is no dark border around it"
    part = _largest(lit.astype(np.uint8))
    if part is None:
        return "nothing in it is lit"
    area, outline = part
    hull = cv2.convexHull(outline)
    inside = _area(brightness.shape, lambda image: cv2.fillPoly(image, [hull], (1,)))
    (x, y), radius = cv2.minEnclosingCircle(outline)
    centre = (round(x), round(y))
    around = _area(
        brightness.shape,
        lambda image: cv2.circle(image, centre, round(radius), (1,), -1),
    )
    if 2 * radius < _SMALLEST * min(brightness.shape):
        return "only a spot of it is lit"
    if area < _SOLID * inside or inside < _ROUND * around:
        return "what is lit is no disc"
    red, green, blue = small[lit].mean(axis=0)
    if red < _REDNESS * max(green, blue):
        return "its colours are not those of a fundus"
    return None


def _largest(lit: UInt8) -> tuple[int, npt.NDArray[np.int32]] | None:
    """Pixels of the largest connected part of uint8[H, W], and its outline."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(lit)
    areas = statistics[1:, cv2.CC_STAT_AREA]  # less the background
    if not len(areas):
        return None
    part = (parts == 1 + int(np.argmax(areas))).astype(np.uint8)
    outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return int(areas.max()), max(outlines, key=len).astype(np.int32)


def _area(shape: tuple[int, ...], draw: Callable[[UInt8], object]) -> int:
    """Pixels that are drawn and within the image."""
    canvas = np.zeros(shape, np.uint8)
    draw(canvas)
    return int(canvas.sum())


def _sharpness(green: UInt8) -> float:
    """How much the finest details of the middle stand out, as a share of brightness.

    Vessels are 1 to 3 pixels wide at this size: a band-pass between those, and its 98th
    percentile, as most of a retina is even.
    """
    values = green.astype(np.float32)
    fine = cv2.GaussianBlur(values, (0, 0), 0.8) - cv2.GaussianBlur(values, (0, 0), 2.5)
    height, width = green.shape
    y, x = np.mgrid[:height, :width]
    middle = np.hypot(y - height / 2, x - width / 2) < 0.35 * min(height, width)
    strength = float(np.percentile(np.abs(fine[middle]), 98))
    return strength / (float(values[middle].mean()) + 5)
