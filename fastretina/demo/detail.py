"""The one free photograph, divided by its own smooth colour: the *detail*.

    retina_cc0.jpg -> paint over its scars -> divide by a smooth surface -> extend

On plain retina the detail is 1, kept as ``UNIT`` in bytes; vessels are darker, the disc
is lighter.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import cv2
import numpy as np
import simplejpeg

from fastretina.demo.canvas import UNIT, Array

# The photograph, 1024 pixels wide; landmarks were read off it by eye.
CENTRE, RADIUS = np.array([511.5, 510.5]), 503.5
DISC, DISC_RADIUS, FOVEA = np.array([160.0, 472.0]), 74.0, np.array([515.0, 508.0])
UPPER_VEIN = (
    (150, 425), (185, 350), (220, 300), (265, 265), (310, 235), (380, 230), (470, 248),
    (520, 270), (575, 303), (630, 305), (700, 313), (760, 297), (815, 255), (870, 228),
)  # fmt: skip
LOWER_VEIN = (
    (130, 545), (150, 605), (175, 670), (205, 755), (230, 805), (285, 850), (335, 877),
    (430, 885), (500, 886), (575, 885), (655, 889), (735, 893), (800, 865), (860, 840),
)  # fmt: skip
CRESCENT = (((214, 420), (236, 496)), ((190, 546), (224, 514)))  # its own old scars

INNER, EDGE = 0.85, 0.985  # radii: stretched from here on, to stay within the edge
MARGIN = 1.3  # half width of the extended detail, in radii
GRID = 64  # light and colour are smooth: computed on 64x64, then scaled up


@lru_cache(maxsize=2)
def base_detail(size: int) -> Array:
    """The photograph's detail, extended past its edge: ``uint8[B, B, 3]``.

    Sampled a little finer than the image needs. Near the edge the retina is stretched
    outwards, so a pose may look past it.
    """
    asset = resources.files("fastretina.demo") / "assets" / "retina_cc0.jpg"
    photo = simplejpeg.decode_jpeg(asset.read_bytes())
    detail = _flatten(_heal(photo))
    width = min(1330, round(1.25 * MARGIN * size))
    axis = ((np.arange(width) + 0.5) * (2 / width) - 1) * MARGIN
    x, y = np.meshgrid(axis, axis)
    far = np.hypot(x, y)
    room = EDGE - INNER
    beyond = np.maximum(far - INNER, 0)
    inner = np.minimum(far, INNER) + room * (1 - np.exp(-beyond / room))
    inward = inner / np.maximum(far, 1e-6) * RADIUS
    maps = [(x * inward + CENTRE[0]), (y * inward + CENTRE[1])]
    maps = [part.astype(np.float32) for part in maps]
    blur = 0.45 * RADIUS / (width / 2 / MARGIN)
    detail = cv2.GaussianBlur(detail, (0, 0), max(0.3, blur))
    return np.asarray(cv2.remap(detail, maps[0], maps[1], cv2.INTER_LINEAR))


def _heal(photo: Array) -> Array:
    """Paint a plain edge of the disc over its scars, which every eye would share."""
    scar = np.zeros(photo.shape[:2], np.uint8)
    for first, last in CRESCENT:
        cv2.line(scar, first, last, (255,), 30)
    alpha = cv2.GaussianBlur(scar, (0, 0), 6).astype(np.float32) / 255
    y, x = np.mgrid[0:1024, 0:1024].astype(np.float32)
    far = np.hypot(x - np.float32(DISC[0]), y - np.float32(DISC[1])) - DISC_RADIUS
    inside = 1 / (1 + np.exp(np.clip(far / 4, -30, 30)))[..., None]
    edge = inside * (238, 196, 122) + (1 - inside) * (222, 122, 84)
    return np.asarray(photo + alpha[..., None] * (edge - photo))


def _flatten(photo: Array) -> Array:
    """Divide ``uint8[1024, 1024, 3]`` by its smooth colour; 1 becomes ``UNIT``.

    The smooth colour is a cubic surface, fitted where it is plain retina.
    """
    small = cv2.resize(photo, (GRID, GRID), interpolation=cv2.INTER_AREA)
    terms, where = _surface(GRID)
    plain = (np.hypot(*where) < 0.95).ravel()
    disc = (DISC - CENTRE) / RADIUS
    plain &= (np.hypot(where[0] - disc[0], where[1] - disc[1]) > 0.25).ravel()
    values = np.log(small.reshape(-1, 3)[plain] + 1.0)
    fit = np.linalg.lstsq(terms[plain], values, rcond=None)[0]
    smooth = np.exp((terms @ fit).reshape(GRID, GRID, 3)).astype(np.float32)
    detail = (photo + np.float32(1)) / cv2.resize(smooth, photo.shape[1::-1])
    # The photograph's red is clipped on the disc and flat in vessels: the green helps.
    detail[..., 0] = detail[..., 0] ** 0.6 * detail[..., 1] ** 0.35
    return np.asarray(cv2.convertScaleAbs(detail, alpha=UNIT))


def _surface(count: int) -> tuple[Array, tuple[Array, Array]]:
    """Cubic terms ``float64[count**2, 10]`` over the photograph, and its x and y."""
    pixels = (np.arange(count) + 0.5) * (1024 / count) - 0.5
    x, y = np.meshgrid((pixels - CENTRE[0]) / RADIUS, (pixels - CENTRE[1]) / RADIUS)
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    return np.stack([(x**i * y**j).ravel() for i, j in powers], -1), (x, y)
