"""What has become of an image that is not as it should be.

Each usual mistake is made on purpose on the right image; the one that gives what was
delivered is the one that was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from fastretina.data.labels import Sample
from fastretina.formatting import format_count
from fastretina.parity.differences import Bound, difference
from fastretina.parity.reference import Original, ParityError, PilReference
from loaders.arrays import UInt8

_REARRANGED: Mapping[str, Callable[[UInt8], UInt8]] = {
    "channels swapped (BGR)": lambda image: image[..., ::-1],
    "mirrored left-right": lambda image: image[:, ::-1],
    "mirrored upside-down": lambda image: image[::-1],
    "mirrored at the diagonal": lambda image: image.swapaxes(0, 1),
    "mirrored at the other diagonal": lambda image: np.rot90(image, 2).swapaxes(0, 1),
    "turned by 90 degrees": lambda image: np.rot90(image, -1),
    "turned by 180 degrees": lambda image: image[::-1, ::-1],
    "turned by 270 degrees": lambda image: np.rot90(image),
}
_HURRIED_DECODERS = {  # nearest chroma, fast DCT
    "nearest chroma upsampling": (True, False),
    "fast DCT": (False, True),
    "nearest chroma upsampling and fast DCT": (True, True),
}
_SIDE = 32  # of the grid of pixels that an image is recognised by
_NAMED = 5  # keys of each fault that are listed


@dataclass(slots=True)
class Fault:
    """A kind of mistake: how many samples have it, and the first five of them.

    Attributes:
        samples: number of samples with the mistake.
        keys: keys of the first five.
        examples: the same five, each with what is wrong in brackets.
    """

    samples: int = 0
    keys: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def add(self, key: str, detail: str = "") -> None:
        """Count a sample in; ``detail`` says what is wrong with it."""
        self.samples += 1
        if len(self.keys) < _NAMED:
            self.keys.append(key)
            self.examples.append(f"{key} ({detail})" if detail else key)

    def __str__(self) -> str:
        more = ", ..." if self.samples > len(self.examples) else ""
        return (
            f"{format_count(self.samples, 'sample')}: {', '.join(self.examples)}{more}"
        )


def diagnose(
    delivered: UInt8,
    original: Original,
    sample: Sample,
    reference: PilReference,
    bound: Bound,
) -> str | None:
    """The mistake that explains an image, if it is a usual one.

    Args:
        delivered: uint8[H, W, 3], RGB.
        original: what should have been delivered.
        sample: the one that it was delivered as.
        reference: decodes the sample in other ways.
        bound: difference that may be left unexplained.
    """
    fitting = {}
    for name, mistaken in _mistaken(original, sample, reference):
        if _may_fit(delivered, mistaken, bound):
            left = difference(delivered, np.ascontiguousarray(mistaken))
            if bound.allows(left):
                fitting[name] = left.mean
    return min(fitting, key=fitting.__getitem__) if fitting else None


def _mistaken(
    original: Original, sample: Sample, reference: PilReference
) -> Iterator[tuple[str, UInt8]]:
    """Yield each usual mistake, and what it makes of the image."""
    for name, rearrange in _REARRANGED.items():
        yield name, rearrange(original.pixels)
    for name, (nearest, fast) in _HURRIED_DECODERS.items():
        pixels = reference.decode_otherwise(
            sample.path, nearest_chroma=nearest, fast_dct=fast
        )
        if pixels is not None:
            yield name, pixels


def _may_fit(delivered: UInt8, other: UInt8, bound: Bound) -> bool:
    """Whether it is worth comparing every pixel: most mistakes show in a few."""
    if delivered.shape != other.shape:
        return False
    few = difference(delivered[::16, ::16].copy(), other[::16, ::16].copy())
    return few.largest <= bound.largest


class UnexplainedImage(NamedTuple):
    """An image that no mistake explains: it may be another sample's.

    Attributes:
        key: the sample that it was delivered as.
        shape: height, width, 3.
        grid: uint8[n, n, 3], pixels from all over the image, n at most 32.
        bound: what an image may differ by.
    """

    key: str
    shape: tuple[int, ...]
    grid: UInt8
    bound: Bound


def keep_unexplained(key: str, delivered: UInt8, bound: Bound) -> UnexplainedImage:
    """Keep what an image is recognised by, in 3 KB."""
    return UnexplainedImage(key, delivered.shape, _grid(delivered), bound)


def find_owners(
    images: list[UnexplainedImage],
    samples: Iterable[Sample],
    reference: PilReference,
    pool: Executor,
) -> dict[str, str]:
    """Find the samples whose images were delivered under another key.

    Decodes the samples, all of them unless every image is found to the last bit.

    Returns:
        The key that an image was delivered under to its owner's, where there is one.
    """
    best: dict[str, tuple[float, str]] = {}

    def likeness(sample: Sample) -> list[tuple[str, tuple[float, str]]]:
        try:
            pixels = reference(sample.path).pixels
        except ParityError:  # so it is nobody's image
            return []
        means = [(image.key, _mean_to(image, pixels)) for image in images]
        return [
            (key, (mean, sample.key))
            for key, mean in means
            if mean is not None and key != sample.key
        ]

    left = iter(samples)
    while images and (some := list(islice(left, 64))):
        for candidates in pool.map(likeness, some):
            for key, candidate in candidates:
                best[key] = min(candidate, best.get(key, candidate))
        if sum(mean == 0 for mean, _ in best.values()) == len(images):
            break
    return {key: owner for key, (_, owner) in best.items()}


def _mean_to(image: UnexplainedImage, pixels: UInt8) -> float | None:
    """The mean difference to a sample's pixels; None if it can't be that sample."""
    if image.shape != pixels.shape:
        return None
    gap = difference(image.grid, _grid(pixels))
    return gap.mean if image.bound.allows(gap) else None


def _grid(image: UInt8) -> UInt8:
    rows, columns = (
        np.linspace(0, side - 1, min(_SIDE, side)).astype(np.int64)
        for side in image.shape[:2]
    )
    return image[np.ix_(rows, columns)]
