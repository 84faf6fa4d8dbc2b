"""How far delivered pixels are from the wanted ones, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from loaders.arrays import UInt8
from loaders.base import Decoding


class Bound(NamedTuple):
    """What one image may differ by, in steps of 255.

    Attributes:
        largest: highest absolute difference of any value, 0 to 255.
        mean: highest absolute difference in the mean over all values.
    """

    largest: int
    mean: float

    def __str__(self) -> str:
        return f"{self.largest}, mean {self.mean:g}" if self.largest else "exact"

    def allows(self, difference: PixelDifference) -> bool:
        """Whether an image that differs so passes."""
        within = difference.largest <= self.largest
        return within and difference.mean <= self.mean


EXACT = Bound(0, 0.0)

# The bounds, by who decodes, who resizes, and whether sharding had to encode the image
# again; they add up. Anyone not listed must be exact.
_DECODER_BOUNDS = {
    "libjpeg-turbo": EXACT,
    "nvJPEG": Bound(4, 0.05),  # on an H100: 3, and 0.033
}
_RESIZER_BOUNDS = {
    "Pillow": EXACT,
    "torch": Bound(
        2, 0.1
    ),  # shorter weights: 2, and 0.012 of photographs, 0.082 of noise
    "DALI": Bound(32, 0.5),  # repeats the border: 21 there, 1 elsewhere; 0.13
}
# Measured: 31 after Ben Graham, 3.4 of white noise.
_ENCODED_AGAIN_BOUND = Bound(48, 4.0)


def bound_for(decoding: Decoding, *, encoded_again: bool = False) -> Bound:
    """What an image may differ by.

    Args:
        decoding: who made its pixels.
        encoded_again: whether it was encoded again, at quality 95, when it was sharded.
    """
    parts = [
        _DECODER_BOUNDS.get(decoding.jpeg.partition(",")[0], EXACT),
        _RESIZER_BOUNDS.get((decoding.resize or "").partition(" ")[0], EXACT),
        _ENCODED_AGAIN_BOUND if encoded_again else EXACT,
    ]
    return Bound(sum(part.largest for part in parts), sum(part.mean for part in parts))


class PixelDifference(NamedTuple):
    """How far one image is from another.

    Attributes:
        largest: largest absolute difference of a value, 0 to 255.
        mean: mean absolute difference over all values.
        values: number of values, height x width x 3.
        exact_values: number of values that are the same.
    """

    largest: int
    mean: float
    values: int
    exact_values: int

    def __str__(self) -> str:
        return f"largest {self.largest}, mean {self.mean:.2g}"


def difference(delivered: UInt8, wanted: UInt8) -> PixelDifference:
    """Compare two images, uint8[H, W, 3] each; another size is as far as can be."""
    if delivered.shape != wanted.shape:
        return PixelDifference(255, 255.0, wanted.size, 0)
    gap = cv2.absdiff(delivered, wanted)
    largest = int(gap.max(initial=0))
    if not largest:
        return PixelDifference(0, 0.0, wanted.size, wanted.size)
    same = wanted.size - int(np.count_nonzero(gap))
    return PixelDifference(largest, float(gap.mean()), wanted.size, same)


@dataclass(slots=True)
class Tally:
    """The differences of many images, in as much memory as one takes.

    Attributes:
        images: number of images.
        exact_images: number of images that don't differ at all.
        values: number of values in all images.
        exact_values: number of values that are the same.
        total: sum of all absolute differences.
        worst: largest and mean difference of the image that is furthest off, its key.
    """

    images: int = 0
    exact_images: int = 0
    values: int = 0
    exact_values: int = 0
    total: float = 0.0
    worst: tuple[int, float, str] = (0, 0.0, "")

    def add(self, key: str, difference: PixelDifference) -> None:
        """Count an image in."""
        self.images += 1
        self.exact_images += difference.largest == 0
        self.values += difference.values
        self.exact_values += difference.exact_values
        self.total += difference.mean * difference.values
        if difference.largest:
            self.worst = max(self.worst, (difference.largest, difference.mean, key))

    @property
    def mean(self) -> float:
        """Mean absolute difference over all values of all images."""
        return self.total / self.values if self.values else 0.0

    def summary(self) -> dict[str, object]:
        """The tally's part of the JSON line."""
        return {
            "images": self.images,
            "exact_images": self.exact_images,
            "exact_values_share": self.exact_values / self.values if self.values else 1,
            "mean": self.mean,
            "largest": self.worst[0],
            "worst_key": self.worst[2] or None,
        }
