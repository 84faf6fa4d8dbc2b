"""A fundus being drawn on: soft layers of opacity, and the outlines to fill them with.

Lengths are in half frames: the image spans -1 to 1, and 1/256 is a pixel at 512x512.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # OpenCV's functions give arrays of no known dtype

UNIT = 100  # the value of plain retina in the detail's bytes
PIXEL = 1 / 256  # one pixel of a 512x512 image
SUBPIXEL_BITS = 4
BLOOD = (0.54, 0.24, 0.30)  # what a lesion makes of plain retina (R, G, B)


class Canvas:
    """A detail image being drawn on, one layer of opacity at a time."""

    def __init__(self, detail: Array, rng: np.random.Generator) -> None:
        """Take ``uint8[S, S, 3]``; it is changed in place."""
        self.detail = detail
        self.size = detail.shape[0]
        # Blood and fat are nowhere of one thickness: this mottles what is drawn.
        thickness = rng.integers(165, 256, (44, 44), np.uint8)
        shape = (self.size, self.size)
        self.mottle = cv2.resize(thickness, shape, interpolation=cv2.INTER_CUBIC)

    def layer(self) -> Array:
        """An empty ``uint8[S, S]``."""
        return np.zeros((self.size, self.size), np.uint8)

    def fixed(self, points: Array) -> Array:
        """Half frames to pixels in OpenCV's fixed point: ``int32[..., 2]``."""
        pixels = (points + 1) * (self.size / 2) - 0.5
        return np.asarray(np.round(pixels * 2**SUBPIXEL_BITS), np.int32)

    def fill(self, layer: Array, outlines: Array, opacity: Array) -> None:
        """Fill outlines, ``float64[N, P, 2]``, each with its opacity (0 to 1)."""
        tones = np.round(255 * opacity).tolist()
        for points, tone in zip(self.fixed(outlines), tones, strict=True):
            cv2.fillPoly(layer, [points], (tone,), cv2.LINE_AA, SUBPIXEL_BITS)

    def stroke(self, layer: Array, path: Array, opacity: float, width: float) -> None:
        """Draw one line; ``width`` is in pixels of a 512x512 image."""
        pixels = max(1, round(width * self.size / 512))
        tone = (255 * opacity,)
        points = [self.fixed(path)]
        cv2.polylines(layer, points, False, tone, pixels, cv2.LINE_AA, SUBPIXEL_BITS)

    def tint(self, layer: Array, colour: Sequence[float], softness: float) -> None:
        """Blend detail towards ``colour``; ``softness`` is a sigma in half frames."""
        x, y, width, height = cv2.boundingRect(layer)
        if width == 0:
            return
        sigma = softness * self.size / 2
        edge = int(3 * sigma) + 1
        rows = slice(max(0, y - edge), y + height + edge)
        columns = slice(max(0, x - edge), x + width + edge)
        soft = layer[rows, columns]
        if sigma > 0.3:
            soft = cv2.GaussianBlur(soft, (0, 0), sigma)
        soft = cv2.multiply(soft, self.mottle[rows, columns], scale=1 / 255)
        alpha = cv2.merge([soft] * 3)
        ramp = np.arange(256)[:, None] * (np.asarray(colour) * UNIT / 255)
        added = cv2.LUT(alpha, np.round(ramp).astype(np.uint8).reshape(256, 1, 3))
        patch = self.detail[rows, columns]
        kept = cv2.multiply(patch, cv2.bitwise_not(alpha), scale=1 / 255)
        patch[...] = cv2.add(kept, added)


def rays(angle: Array | float) -> Array:
    """Unit vectors: ``float64[..., 2]``."""
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def blobs(
    centres: Array,
    radius: Array,
    rng: np.random.Generator,
    *,
    rough: float = 0.16,
    stretch: tuple[float, float] = (1.0, 1.5),
    angle: Array | None = None,
) -> Array:
    """Irregular closed outlines: ``float64[N, 20, 2]``.

    Args:
        centres: ``float64[N, 2]``.
        radius: ``float64[N]``, the half width across.
        rng: the lesions' own stream.
        rough: height of the bumps, in radii.
        stretch: least and most times longer than wide.
        angle: ``float64[N]``, which way they are long; any way if left out.
    """
    count = len(centres)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    phase = rng.uniform(0, 2 * np.pi, (count, 4, 1))
    height = rng.normal(0, rough, (count, 4, 1)) / np.sqrt(waves - 1)
    bumps = 1 + (height * np.cos(waves * turn + phase)).sum(1)
    across = rays(turn) * (radius[:, None] * np.clip(bumps, 0.5, 1.7))[..., None]
    across[..., 0] *= rng.uniform(*stretch, (count, 1))
    any_way = rng.uniform(0, np.pi, count)
    return turned(across, any_way if angle is None else angle) + centres[:, None]


def turned(shapes: Array, angle: Array) -> Array:
    """Rotate ``float64[N, P, 2]`` about 0 by ``float64[N]``."""
    x_axis = rays(angle)[:, None]
    y_axis = rays(angle + np.pi / 2)[:, None]
    return np.asarray(shapes[..., :1] * x_axis + shapes[..., 1:] * y_axis)


def wander(
    start: Array,
    heading: float,
    length: float,
    rng: np.random.Generator,
    *,
    curl: float,
) -> Array:
    """A smooth wandering path, as fine new vessels take: ``float64[24, 2]``."""
    steps = 24
    bend = np.convolve(rng.normal(0, curl, steps + 4), np.ones(5) / 2.2, "valid")
    course = heading + np.cumsum(bend + rng.normal(0, curl / 4))
    return np.asarray(start + np.cumsum(rays(course) * (length / steps), 0))
